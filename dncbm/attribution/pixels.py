"""Where in the image a target of the embedding comes from: exactly, or post hoc and said so.

For a B-cos tower a map is the contributions of W(x), which sum to the target together with what
positions and biases add. For any other tower the map is Grad-CAM at its last spatial layer, or
smoothed integrated gradients where it has none (vision transformers): where, not how much.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dncbm.attribution.heads import Head
from dncbm.attribution.methods import grad_cam, integrated_gradients, smoothed, upsampled
from dncbm.bcos.explain import explain
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.render import rgba, window_of

EXACT = "bcos"
_STEPS = 20
_WINDOW = 0.15
"""Side of the smoothing window as a share of the image's side."""


class PixelMaps(NamedTuple):
    """Maps of several targets of each image."""

    values: Float[Tensor, "n t"]
    """The targets."""
    maps: Float[Tensor, "n t h w"]
    """Of an exact method, contributions of the pixels."""
    method: str
    """`bcos`, which is exact, or the name of a post hoc method."""
    position: Float[Tensor, "n t"] | None
    """What positions add; None post hoc."""
    bias: Float[Tensor, "n t"] | None
    """What constants add; None post hoc."""
    pictures: Float[Tensor, "n t h w 4"] | None
    """RGBA in [0, 1] of what the tower looks for where it found it; None post hoc."""


def pixel_maps(tower: nn.Module, pixels: Float[Tensor, "n 3 h w"], head: Head) -> PixelMaps:
    """Explain targets of the embedding by the pixels.

    Args:
        tower: an image tower in eval mode; exact if it is an `ImageModel`.
        pixels: as the tower takes them.
        head: what of the embedding is explained.
    """
    if isinstance(tower, ImageModel):
        found = explain(tower, pixels, head)
        window = window_of(pixels.shape[-2])
        pictures = rgba(found.inputs[:, None], found.weights, smooth=window)
        return PixelMaps(found.values, found.maps, EXACT, found.position, found.bias, pictures)
    with torch.no_grad():
        values = head(tower(pixels))
    layer = last_spatial_layer(tower, pixels[:1])
    if layer is not None:
        maps = upsampled(
            grad_cam(tower, pixels, head, layer=layer), (pixels.shape[-2], pixels.shape[-1])
        )
        return PixelMaps(values, maps, "grad_cam", None, None, None)
    side = 2 * round(_WINDOW * min(pixels.shape[-2:]) / 2) + 1
    maps = smoothed(integrated_gradients(tower, pixels, head, steps=_STEPS), side)
    return PixelMaps(values, maps, "smoothed integrated_gradients", None, None, None)


@torch.no_grad()
def last_spatial_layer(tower: nn.Module, pixels: Float[Tensor, "n c h w"]) -> nn.Module | None:
    """The last module that gives maps (n, c, y, x) of several places, or None.

    The patch embedding of a vision transformer is no such layer: tokens mix after it.
    """
    seen: list[tuple[int, nn.Module]] = []
    last: list[int] = []

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor):
            return
        if output.dim() == 4 and output.shape[-1] * output.shape[-2] > 1:
            seen.append((len(last), module))
        last.append(output.dim())

    handles = [module.register_forward_hook(note) for module in tower.modules()]
    try:
        tower(pixels)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return None
    place, layer = seen[-1]
    tokens = any(dim == 3 for dim in last[place:])
    return None if tokens else layer
