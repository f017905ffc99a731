"""What contrastive training trains: towers, what is learned beside them, and the loss."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dncbm.bcos.models.network import Network
from dncbm.bcos.models.zoo import model_names
from dncbm.bcos.originals import FAMILIES, parse_classifier
from dncbm.bcos.store import Blueprint
from dncbm.contrastive.heads import ProjectionHead
from dncbm.contrastive.scheduled import ScheduledLoss
from dncbm.encoders.adapter import AdaptedTower
from dncbm.encoders.clip import Encoder
from dncbm.encoders.spec import BCOS, GUIDED
from dncbm.encoders.trained import TextTower, build_tower, load_tower, trained_folder
from dncbm.errors import InvalidInput, UnknownName

_SMALL = 64
"""Images of fewer pixels get a stem that does not shrink them."""
_LEARNED_WIDTH = 256
"""Of embeddings, where a network has no features of its own that could be read."""


@final
class ViewsNetwork(nn.Module):
    """An image tower, its projection head and the loss between two views."""

    def __init__(self, tower: nn.Module, head: nn.Module, loss: ScheduledLoss) -> None:
        super().__init__()
        self.tower, self.head, self.loss = tower, head, loss

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n D"]:
        """Projections, which only the loss sees."""
        return self.head(self.tower(pixels))


@final
class PairsNetwork(nn.Module):
    """Both towers of an image-text model and the loss between them.

    Args:
        model: of open_clip; what does not learn has no gradients.
        loss: between images and texts.
        learns: `both` towers; `images` alone, the texts being locked (LiT, Zhai et al. 2022); or
            `adapters`: a residual one behind the frozen image tower, and the last, linear step of
            the text tower.
        adapter: hidden width of the adapter; None: none.

    Raises:
        InvalidInput: a model whose image embedding is more than its `visual`.
    """

    def __init__(
        self, model: Any, loss: ScheduledLoss, *, learns: str = "both",
        embed_dim: int = 0, adapter: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not hasattr(model, "visual") or not hasattr(model, "encode_text"):
            raise InvalidInput(
                f"A {type(model).__name__} has no two towers to train. Take a CLIP model."
            )
        self.model, self.loss, self.learns = model, loss, learns
        for name in ("logit_scale", "logit_bias"):  # the loss has its own
            value = getattr(model, name, None)
            if value is not None:
                value.requires_grad_(False)
        if learns != "both":
            model.requires_grad_(False)
        if learns == "images":
            model.visual.requires_grad_(True)
        if adapter is not None:
            model.visual = AdaptedTower(model.visual, embed_dim, adapter)
            model.visual.adapter.requires_grad_(True)
            self._free_text_projection()

    def _free_text_projection(self) -> None:
        owner = getattr(self.model, "text", self.model)
        projection = getattr(owner, "text_projection", None)
        if isinstance(projection, nn.Module | nn.Parameter):
            projection.requires_grad_(True)

    def train(self, mode: bool = True) -> "PairsNetwork":
        """Frozen towers stay in evaluation mode, so that their batch norms do not move."""
        super().train(mode)
        if self.learns == "adapters":
            self.model.eval()
        if self.learns == "images":
            for name, part in self.model.named_children():
                part.train(mode and name == "visual")
        return self

    def images(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n D"]:
        """Image embeddings."""
        return self.model.encode_image(pixels)

    def texts(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n D"]:
        """Text embeddings."""
        return self.model.encode_text(tokens)

    def text_weights(self) -> dict[str, Tensor]:
        """Of all but the image tower."""
        state = self.model.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("visual.")}


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTower:
    """An image tower and how it is built."""

    tower: nn.Module
    blueprint: Blueprint
    embed_dim: int


def new_tower(model: str, size: int, **settings: Any) -> NewTower:
    """An image tower with random weights (of torch's global generator), for images alone.

    Args:
        model: a network of ours (`standard_resnet18`), `timm:NAME` or `torchvision:NAME`. Ordinary
            networks of ours and timm's give the mean features before their classifier, as the
            papers take them; the others get a learned linear step to 256 axes.
        size: pixels; below 64, networks of ours get a stem that does not shrink images.
        settings: of networks of ours, such as `width`.

    Raises:
        UnknownName: no such network.
    """
    if model in model_names():
        return _ours(model, size, settings)
    family, _, name = model.partition(":")
    if family not in FAMILIES:
        known = [*model_names(), *(f"{family}:resnet18" for family in FAMILIES)]
        raise UnknownName("image tower", model, known)
    parse_classifier(model)
    width = 0 if family == "timm" else _LEARNED_WIDTH
    blueprint = Blueprint(family=family, name=name, arguments={"num_classes": width})
    tower: Any = build_tower(blueprint, width)
    return NewTower(tower=tower, blueprint=blueprint, embed_dim=width or int(tower.num_features))


def _ours(model: str, size: int, settings: dict[str, Any]) -> NewTower:
    small = {"small_inputs": True} if size < _SMALL and "vit" not in model else {}
    arguments = small | settings | {"num_classes": _LEARNED_WIDTH}
    tower = build_tower(Blueprint(family="scratch", name=model, arguments=arguments), 0)
    head = tower.get_submodule(tower.head_path) if isinstance(tower, Network) else None
    if isinstance(head, nn.Linear):  # its own features: a classifier that changes nothing
        arguments = arguments | {"num_classes": head.in_features}
        tower = build_tower(Blueprint(family="scratch", name=model, arguments=arguments), 0)
        _to_identity(tower.get_submodule(str(tower.head_path)))
    blueprint = Blueprint(family="scratch", name=model, arguments=arguments)
    return NewTower(tower=tower, blueprint=blueprint, embed_dim=int(arguments["num_classes"]))


@torch.no_grad()
def _to_identity(head: Any) -> None:
    """Output equals input, and stays so."""
    head.requires_grad_(False)
    nn.init.eye_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def views_network(
    found: NewTower, loss: ScheduledLoss, *, hidden: int | None = None, out: int = 128
) -> ViewsNetwork:
    """A tower with a new projection head."""
    head = ProjectionHead(found.embed_dim, hidden=hidden, out=out)
    return ViewsNetwork(found.tower, head, loss)


def tower_of(encoder: Encoder) -> NewTower:
    """The image tower of a trained encoder, to be trained further on images alone."""
    model: Any = encoder.trainable_model()
    if not hasattr(model, "visual"):
        raise InvalidInput(f"{encoder.spec} has no image tower of its own. Take a CLIP model.")
    blueprint, _ = origin_of(encoder)
    return NewTower(tower=model.visual, blueprint=blueprint, embed_dim=encoder.embed_dim)


def origin_of(encoder: Encoder) -> tuple[Blueprint, TextTower | None]:
    """How the image tower of a trained encoder is built anew, and whose texts go with it.

    Raises:
        InvalidInput: an encoder whose tower cannot be stored by itself.
    """
    scheme = encoder.spec.partition(":")[0]
    if scheme in (BCOS, GUIDED):
        raise InvalidInput(
            f"{encoder.spec} is made of another encoder and cannot be trained further by contrast. "
            "Train that one, and convert or guide what comes out."
        )
    folder = trained_folder(encoder.spec)
    if folder is not None:
        found = load_tower(folder)
        return Blueprint(**found.manifest.config["blueprint"]), found.text
    text = TextTower(encoder=encoder.spec, fingerprint=encoder.fingerprint)
    return Blueprint(family="encoder", name=encoder.spec.removeprefix("scratch:")), text
