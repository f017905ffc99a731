"""Which layers of a network have places: where its head begins, and layers worth comparing."""

import re
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dncbm.attribution.layers import layer_of, split_at, token_grid
from dncbm.attribution.resolution import takes
from dncbm.bcos.models.network import Network
from dncbm.errors import DncbmError, InvalidInput

_ATTENTION = (nn.MultiheadAttention,)
_PASSING = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.AvgPool2d, nn.MaxPool2d,
)  # fmt: skip
"""What is no layer of its own: it shows what came before it."""
_FEWEST_BLOCKS = 2
_NUMBERED = re.compile(r"(\D*_)?\d+")
"""Names of blocks in a row: `3`, `encoder_layer_3`."""
AUTOMATIC = ("input", "middle", "final")


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network up to its last layer with places."""

    last: nn.Module
    name: str
    after: frozenset[nn.Module] = field(repr=False)
    """Modules that belong to the head."""

    def require(self, layer: nn.Module) -> None:
        """Refuse a layer of the head.

        Raises:
            InvalidInput: it belongs to it.
        """
        if layer in self.after:
            raise InvalidInput(
                f"The layer {type(layer).__name__} comes after {self.name}, where the head begins "
                "that DiPart gives to every cell. Take a layer up to there."
            )


class _Call(NamedTuple):
    name: str
    module: nn.Module
    shape: tuple[int, ...]
    """Of the output; empty where it is no tensor."""


def backbone_of(
    network: nn.Module, cell: Float[Tensor, "1 c h w"], side: int, last: nn.Module | None = None
) -> Backbone:
    """The layers before pooling and head.

    Args:
        network: convolutional, with a head that sees features of a fixed size or their mean.
        cell: an image of a cell's size.
        side: cells along a side of the pictures.
        last: where the head begins; by default after the last module whose features are `side`
            times as high and wide for the picture as for the cell.

    Raises:
        InvalidInput: the network takes no such pictures, or no head can be told apart: attention
            and tokens come after its features.
    """
    picture = cell.repeat(1, 1, side, side)
    if not takes(network, picture):
        raise InvalidInput(
            f"DiPart is not defined for this {type(network).__name__}: it takes images of "
            f"{tuple(cell.shape[-2:])} only, not whole grids (learned positions, attention pools). "
            "DiFull is exact for every architecture."
        )
    small, large = _calls(network, cell), _calls(network, picture)
    if [call.name for call in small] != [call.name for call in large]:
        raise InvalidInput("DiPart is not defined: the network's layers depend on the image size.")
    grown = [
        place
        for place, (one, all_) in enumerate(zip(small, large, strict=True))
        if len(one.shape) == 4 and all_.shape[-2:] == tuple(side * s for s in one.shape[-2:])
    ]
    if last is not None:
        grown = [place for place in grown if small[place].module is last]
    if not grown:
        raise InvalidInput(
            "DiPart is not defined: "
            + ("no layer" if last is None else f"the layer {type(last).__name__} does not give")
            + " features that grow with the image. DiFull is exact for every architecture."
        )
    place = grown[-1]
    after = small[place + 1 :]
    _require_plain(network, after, small[place].name)
    before = {call.module for call in small[: place + 1]}
    own = frozenset(call.module for call in after) - before
    return Backbone(small[place].module, small[place].name, own)


def automatic_layers(network: nn.Module, images: Float[Tensor, "n c h w"]) -> dict[str, str | None]:
    """Layers by the names `input`, `middle` and `final`: names of modules, None for the input.

    Convolutional networks: the last module (outermost, after its activation) of the middle and of
    the lowest resolution before the head. Vision transformers: the block at half depth, and the
    last one whose patches the output depends on, which with a class token is the last but one.

    Args:
        network: in eval mode.
        images: as it takes them; one is enough.

    Raises:
        InvalidInput: the network has no layers with places.
    """
    calls = _calls(network, images[:1])
    blocks = _blocks(calls, images)
    if blocks:
        reached = [name for name in blocks if _reaches(network, images[:1], name)]
        if reached:
            return {
                "input": None, "middle": blocks[(len(blocks) - 1) // 2], "final": reached[-1],
            }  # fmt: skip
    stages = _stages(network, calls)
    if not stages:
        raise InvalidInput(
            f"{type(network).__name__} has no layer with places. Use the layer input, or name one."
        )
    sizes = list(stages)
    return {
        "input": None, "middle": stages[sizes[(len(sizes) - 1) // 2]], "final": stages[sizes[-1]],
    }  # fmt: skip


def resolved_layer(
    network: nn.Module, name: str, automatic: dict[str, str | None], prefix: str = "tower"
) -> str | None:
    """A layer's name in the network; None is the input.

    Args:
        network: the network.
        name: one of `AUTOMATIC`, a module, or a module below `prefix`.
        automatic: of `automatic_layers`.
        prefix: module that may be left out.

    Raises:
        UnknownName: there is no such layer; with the nearest names.
    """
    if name in automatic:
        return automatic[name]
    below = f"{prefix}.{name}"
    if below in dict(network.named_modules()):
        return below
    layer_of(network, name)
    return name


def _calls(network: nn.Module, images: Tensor) -> list[_Call]:
    """Modules in the order in which they end."""
    found: list[_Call] = []
    names = {module: name for name, module in network.named_modules() if name}

    owner = threading.get_ident()

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if threading.get_ident() != owner:
            return
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        found.append(_Call(names[module], module, shape))

    handles = [module.register_forward_hook(note) for module in names]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _require_plain(network: nn.Module, head: list[_Call], last: str) -> None:
    """Refuse a head in which places see each other."""
    wrong = [call for call in head if len(call.shape) == 3 or isinstance(call.module, _ATTENTION)]
    if wrong:
        raise InvalidInput(
            f"DiPart is not defined for this {type(network).__name__}: after {last}, "
            f"{wrong[0].name} makes tokens, which see the whole picture. DiFull is exact for every "
            "architecture."
        )


def _blocks(calls: list[_Call], images: Tensor) -> list[str]:
    """Blocks of a vision transformer: the most siblings that give tokens of one grid."""
    tokens = [
        call
        for call in calls
        if len(call.shape) == 3 and token_grid(call.shape[1], images.shape[-2], images.shape[-1])
    ]
    families: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for call in tokens:
        parent, _, own = call.name.rpartition(".")
        if _NUMBERED.fullmatch(own):
            families.setdefault((parent, call.shape), []).append(call.name)
    best = max(families.values(), key=lambda f: (len(f), -f[0].count(".")), default=[])
    return best if len(best) >= _FEWEST_BLOCKS else []


def _stages(network: nn.Module, calls: list[_Call]) -> dict[int, str]:
    """The last outermost module of each resolution, from the highest to the lowest."""
    head = _head_of(network)
    spatial = [
        call
        for call in calls
        if len(call.shape) == 4
        and call.shape[-1] * call.shape[-2] > 1
        and not isinstance(call.module, _PASSING)
        and not any(call.name == name or call.name.startswith(f"{name}.") for name in head)
    ]
    outputs = calls[-1].shape[-1] if calls and calls[-1].shape else 0
    while len(spatial) > 1 and spatial[-1].shape[1] == outputs != spatial[-2].shape[1]:
        spatial.pop()  # a head that is a convolution
    found: dict[int, str] = {}
    for size in sorted({call.shape[-2] for call in spatial}, reverse=True):
        mine = [call for call in spatial if call.shape[-2] == size]
        depth = min(call.name.count(".") for call in mine)
        found[size] = [call.name for call in mine if call.name.count(".") == depth][-1]
    return found


def _head_of(network: nn.Module) -> list[str]:
    """Modules that make classes of features, where the network says so."""
    return [
        f"{name}.{module.head_path.partition('.')[0]}".lstrip(".")
        for name, module in network.named_modules()
        if isinstance(module, Network) and hasattr(module, "head")
    ]


def _reaches(network: nn.Module, images: Tensor, layer: str) -> bool:
    """Whether the output depends on the features of a layer."""
    with torch.inference_mode(False), torch.enable_grad():
        try:
            split = split_at(network, images.clone(), layer)
            output = split.explain(split.features)
            [gradient] = torch.autograd.grad(output.sum(), split.features, allow_unused=True)
        except DncbmError:
            return False
    return gradient is not None and bool(gradient.any())
