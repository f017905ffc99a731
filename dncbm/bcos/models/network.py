"""What all architectures have in common: maps before the head, a head, and its replacement."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import BcosConv2d, BcosLinear, LogitLayer, logit_bias
from dncbm.errors import InvalidInput

M = TypeVar("M", bound=nn.Module)


class Network(nn.Module):
    """A classifier: `classify(features(x))`.

    `features` gives maps (n, d, y, x) of images (n, i, h, w) in every architecture: a method, or
    the submodule that checkpoints call so.
    """

    head: ClassVar[str]
    """Path of the layer that makes classes; see `head_path`."""
    features: Callable[[Tensor], Tensor]
    smallest: int = 1
    """Least height and width of an image."""

    def __init__(self, *, num_classes: int, in_chans: int, is_bcos: bool) -> None:
        super().__init__()
        _check_count("num_classes", num_classes)
        _check_count("in_chans", in_chans)
        self.num_classes, self.in_chans, self.is_bcos = num_classes, in_chans, is_bcos
        self.logit_layer = LogitLayer(bias=logit_bias(num_classes) if is_bcos else None)

    @property
    def head_path(self) -> str:
        """Path of the layer that makes classes."""
        return self.head

    @staticmethod
    def initialise(layer: nn.Module) -> None:
        """Random weights as training from scratch wants them; torch's own by default."""

    def draw(self) -> None:
        """Initialise all layers, unless they hold nothing yet (`torch.device("meta")`)."""
        if not next(self.parameters()).is_meta:
            self.apply(self.initialise)

    def classify(self, features: Float[Tensor, "n d y x"]) -> Float[Tensor, "n k"]:
        """Logits of the maps before the head; a B-cos head comes before the mean over places."""
        top = self.get_submodule(self.head_path.partition(".")[0])
        logits = top(features).mean((2, 3)) if self.is_bcos else top(features.mean((2, 3)))
        shifted: Tensor = self.logit_layer(logits)
        return shifted

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, k) of images (n, i, h, w).

        Raises:
            InvalidInput: other images.
        """
        self.check(x)
        return self.classify(self.features(x))

    def check(self, x: Tensor) -> None:
        """Refuse images of another shape.

        Raises:
            InvalidInput: with the shape, the rule and what to do.
        """
        rule = f"images of shape {tuple(x.shape)}; the rule is (n, {self.in_chans}, h, w)"
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise InvalidInput(f"{type(self).__name__} got {rule}.{self._encoding_hint(x)}")
        if min(x.shape[2:]) < self.smallest:
            raise InvalidInput(
                f"{type(self).__name__} got {rule} with h and w of at least {self.smallest}. "
                "Enlarge the images, or create ResNets and DenseNets with small_inputs=True."
            )

    def _encoding_hint(self, x: Tensor) -> str:
        if x.dim() == 3:
            return " Add a batch axis: images[None]."
        if self.in_chans == 6 and x.shape[1] == 3:
            return (
                " Encode three colours by `dncbm.bcos.inputs.inverse`, or wrap the network: "
                'ImageModel(network, encoding="inverse").'
            )
        return f" Create the network with in_chans={x.shape[1]} for such images."


def replace_head(model: M, num_classes: int) -> M:
    """Give a network a fresh head for other classes, in place, for fine-tuning.

    The logit bias becomes that of the new number of classes; the rest is untouched.

    Args:
        model: a network of this package, or an `ImageModel` of one.
        num_classes: k.

    Returns:
        The model itself.

    Raises:
        InvalidInput: no class, or a model without a known head.
    """
    _check_count("num_classes", num_classes)
    network = model.network if isinstance(model, ImageModel) else model
    if not isinstance(network, Network):
        raise InvalidInput(
            f"The head of a {type(network).__name__} is not known; the rule is a network of "
            "`create_model`. Replace its last layer and its LogitLayer yourself."
        )
    old = network.get_submodule(network.head_path)
    head = _like(old, num_classes)
    head.apply(network.initialise)
    parent, _, name = network.head_path.rpartition(".")
    setattr(
        network.get_submodule(parent), name, head.to(next(old.parameters())).train(old.training)
    )
    network.num_classes = num_classes
    if network.is_bcos:
        network.logit_layer.bias = logit_bias(num_classes)
    return model


def _like(head: nn.Module, outputs: int) -> nn.Module:
    """A layer with the same settings and another number of outputs."""
    if isinstance(head, nn.Linear):
        return nn.Linear(head.in_features, outputs, bias=head.bias is not None)
    if not isinstance(head, BcosLinear | BcosConv2d):
        raise InvalidInput(
            f"The head is a {type(head).__name__}; the rule is a B-cos or linear layer."
        )
    settings: dict[str, Any] = {
        "b": head.b, "max_out": head.max_out, "unit_norm": head.unit_norm,
        "bias": head.linear.bias is not None,
    }  # fmt: skip
    if isinstance(head, BcosLinear):
        return BcosLinear(head.linear.in_features, outputs, **settings)
    return BcosConv2d(head.linear.in_channels, outputs, 1, **settings)


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise InvalidInput(f"{name} is {count}; the rule is at least 1.")
