"""Explanations as pictures: W(x) in its own colours, and contributions in red and blue."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

SMOOTHING = 15
"""Pixels over which the opacity is averaged."""
PERCENTILE = 99.5
"""Of the opacity or of contributions: where the scale ends."""
_TINY = 1e-12


def rgba(
    inputs: Float[Tensor, "*n 6 h w"],
    weights: Float[Tensor, "*m 6 h w"],
    *,
    smooth: int = SMOOTHING,
    percentile: float = PERCENTILE,
) -> Float[Tensor, "*m h w 4"]:
    """What the network looks for where it found it, in [0, 1] (B-cos v2, `gradient_to_image`).

    Colour is the share of each positive weight in its pair of channels; opacity is the length of
    the weights at a pixel, smoothed, relative to its percentile. Pixels that speak against the
    target are transparent.

    Args:
        inputs: the encoded images, [x, 1 - x] or [n, -n]; axes before the last three broadcast.
        weights: W(x).
        smooth: side of the averaging window, odd; 0 or 1 leaves the opacity as it is.
        percentile: of the opacity, at and above which a pixel is opaque.
    """
    lead, shape = weights.shape[:-3], weights.shape[-3:]
    inputs, weights = inputs.expand_as(weights).reshape(-1, *shape), weights.reshape(-1, *shape)
    largest = weights.abs().amax(dim=1, keepdim=True)
    positive = (weights / (largest + _TINY)).clamp_min(0)
    colour = positive[:, :3] / (positive[:, :3] + positive[:, 3:] + _TINY)
    opacity = torch.linalg.vector_norm(weights, dim=1)
    opacity = torch.where((inputs * weights).sum(dim=1) < 0, _TINY, opacity)
    opacity = _smoothed(opacity, smooth)
    top = torch.quantile(opacity.flatten(1), percentile / 100, dim=1)[:, None, None]
    opacity = (opacity / top.clamp_min(_TINY)).clamp(0, 1)
    picture = torch.cat([colour.clamp(0, 1), opacity[:, None]], dim=1)
    return picture.movedim(1, -1).reshape(*lead, *shape[1:], 4)


def heat(
    maps: Float[Tensor, "*n h w"], *, smooth: int = 1, percentile: float = PERCENTILE
) -> Float[Tensor, "*n h w 4"]:
    """Contributions as RGBA in [0, 1]: red for, blue against, the more opaque the more.

    Each map has its own symmetric scale, which ends at a percentile of the absolute values.

    Args:
        maps: contributions.
        smooth: side of the window over which they are averaged, odd; 1 shows each pixel's own.
        percentile: where the scale ends.
    """
    shape = maps.shape
    maps = _smoothed(maps.reshape(-1, *shape[-2:]), smooth).view(shape)
    top = torch.quantile(maps.abs().flatten(-2), percentile / 100, dim=-1)[..., None, None]
    scaled = (maps / top.clamp_min(_TINY)).clamp(-1, 1)
    nothing = torch.zeros_like(scaled)
    return torch.stack([(scaled > 0).to(maps), nothing, (scaled < 0).to(maps), scaled.abs()], -1)


def window_of(side: int) -> int:
    """A window to look at maps of so many pixels with: 15 of 224, as B-cos v2's pictures."""
    return 2 * round(side / 32) + 1


def on_white(picture: Float[Tensor, "*n h w 4"]) -> UInt8[Tensor, "*n h w 3"]:
    """An RGBA picture on white paper."""
    colour, opacity = picture[..., :3], picture[..., 3:]
    return ((colour * opacity + 1 - opacity) * 255).round().to(torch.uint8)


def _smoothed(maps: Float[Tensor, "n h w"], side: int) -> Float[Tensor, "n h w"]:
    """Mean over windows that are cut off at the borders by zeros, as B-cos v2 does."""
    if side <= 1:
        return maps
    return functional.avg_pool2d(maps[:, None], side, stride=1, padding=(side - 1) // 2)[:, 0]
