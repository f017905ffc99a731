"""How much of a map lies where it should: mass ratio, pointing game and overlap with masks.

The localisation score L_i of the grid settings (Rao et al. 2022, eq. 1), the energy-based pointing
game (EPG, Wang et al. 2020) and the energy inside a segmentation mask are one function of maps and
masks: the share of the positive part that lies inside. A uniform map scores the share of the area
that the mask covers, so that is the chance level, and is to be told beside every mean.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dncbm.errors import InvalidInput, UnknownName

UNDEFINED = ("zero", "nan")
"""What a map without any positive value scores: 0 as in the paper, or NaN."""
SCALES = ("max", "min-max")
"""How a map's positive part gets to [0, 1]: over its maximum, or its least value taken off too."""
CANDIDATES = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds to choose from: 0.05 to 0.95."""


def mass_ratio(
    maps: Float[Tensor, "n t h w"], masks: Bool[Tensor, "..."], *, undefined: str = "zero"
) -> Float[Tensor, "n t"]:
    """Share of each map's positive part inside its mask: L_i, which is EPG.

    Args:
        maps: attributions, not clamped.
        masks: (n, t, h, w), or whatever broadcasts to it.
        undefined: score of maps without positive values, see `UNDEFINED`.

    Returns:
        In float64, from 0 to 1.

    Raises:
        InvalidInput: masks of another size.
        UnknownName: another `undefined`.
    """
    if undefined not in UNDEFINED:
        raise UnknownName("value of `undefined`", undefined, UNDEFINED)
    masks = _like(masks, maps)
    positive = maps.double().clamp_min(0)
    total = positive.sum(dim=(-2, -1))
    inside = (positive * masks).sum(dim=(-2, -1))
    empty = 0.0 if undefined == "zero" else float("nan")
    return torch.where(total > 0, inside / total.clamp_min(1e-300), empty)


def chance(masks: Bool[Tensor, "*n h w"]) -> Float[Tensor, "*n"]:
    """What a uniform map scores: the share of the area inside the mask."""
    return masks.double().mean(dim=(-2, -1))


def above_chance(
    maps: Float[Tensor, "n t h w"], masks: Bool[Tensor, "..."], *, undefined: str = "zero"
) -> Float[Tensor, "n t"]:
    """Mass ratio minus its chance level: from -1 to 1, 0 for a uniform map."""
    return mass_ratio(maps, masks, undefined=undefined) - chance(_like(masks, maps))


def over_chance(
    maps: Float[Tensor, "n t h w"], masks: Bool[Tensor, "..."], *, undefined: str = "zero"
) -> Float[Tensor, "n t"]:
    """Mass ratio over its chance level: 1 for a uniform map; NaN for an empty mask."""
    area = chance(_like(masks, maps))
    ratio = mass_ratio(maps, masks, undefined=undefined) / area.clamp_min(1e-300)
    return torch.where(area > 0, ratio, float("nan"))


def pointing_game(
    maps: Float[Tensor, "n t h w"], masks: Bool[Tensor, "..."], *, tolerance: float | int = 0
) -> Bool[Tensor, "n t"]:
    """Whether a map's largest value is inside its mask or near (Zhang et al. 2018).

    A map without positive values points nowhere and misses; of equal values the first counts, row
    by row.

    Args:
        maps: attributions.
        masks: as in `mass_ratio`.
        tolerance: distance in pixels that still counts; 15 in the paper.

    Raises:
        InvalidInput: a negative tolerance, or masks of another size.
    """
    if tolerance < 0:
        raise InvalidInput(f"The tolerance is {tolerance}; the rule is at least 0 pixels.")
    masks = _like(masks, maps)
    high, wide = maps.shape[-2:]
    best = maps.flatten(-2).max(dim=-1)
    y, x = best.indices // wide, best.indices % wide
    rows = torch.arange(high, device=maps.device) - y[..., None]
    columns = torch.arange(wide, device=maps.device) - x[..., None]
    near = rows[..., :, None] ** 2 + columns[..., None, :] ** 2 <= tolerance**2
    return (near & masks).flatten(-2).any(dim=-1) & (best.values > 0)


def iou(
    maps: Float[Tensor, "n t h w"], masks: Bool[Tensor, "..."], threshold: float | int,
    *, scale: str = "max",
) -> Float[Tensor, "n t"]:  # fmt: skip
    """Intersection over union of masks and of maps where they reach a threshold.

    Args:
        maps: attributions; their positive part is scaled, map by map.
        masks: as in `mass_ratio`.
        threshold: in (0, 1]; see `choose_threshold`.
        scale: see `SCALES`.

    Returns:
        In float64; 0 where map and mask are both empty.

    Raises:
        InvalidInput: a threshold outside (0, 1].
        UnknownName: another scale.
    """
    if not 0 < threshold <= 1:
        raise InvalidInput(f"The threshold is {threshold}; the rule is above 0 and at most 1.")
    masks = _like(masks, maps)
    found = scaled(maps, scale) >= threshold
    both = (found & masks).sum(dim=(-2, -1)).double()
    either = (found | masks).sum(dim=(-2, -1)).double()
    return both / either.clamp_min(1)


def scaled(maps: Float[Tensor, "*n h w"], scale: str = "max") -> Float[Tensor, "*n h w"]:
    """Positive parts in [0, 1], map by map; a map without positive values stays 0.

    Raises:
        UnknownName: another scale.
    """
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    positive = maps.clamp_min(0)
    low = positive.amin(dim=(-2, -1), keepdim=True) if scale == "min-max" else 0.0
    high = positive.amax(dim=(-2, -1), keepdim=True)
    width = (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
    return (positive - low) / width


class Threshold(NamedTuple):
    """A threshold chosen on held-out maps."""

    value: float
    mean_iou: float
    """That it reached there."""


def choose_threshold(
    held_out: Iterable[tuple[Float[Tensor, "n t h w"], Bool[Tensor, "..."]]],
    *,
    candidates: Sequence[float] = CANDIDATES,
    scale: str = "max",
) -> Threshold:
    """The threshold with the best mean IoU on held-out maps; the lowest of equal ones.

    Args:
        held_out: batches of maps and masks, never those that are judged; read once.
        candidates: thresholds.
        scale: see `SCALES`; that of `iou` later.

    Raises:
        InvalidInput: no map, or no candidate.
    """
    totals, count = torch.zeros(len(candidates), dtype=torch.float64), 0
    for maps, masks in held_out:
        count += maps.shape[0] * maps.shape[1]
        for place, value in enumerate(candidates):
            totals[place] += iou(maps, masks, value, scale=scale).sum().cpu()
    if not count or not len(candidates):
        raise InvalidInput(
            f"{count} held-out maps and {len(candidates)} candidates; the rule is at least one of "
            "each. Hold some annotated images out."
        )
    best = int(totals.argmax())
    return Threshold(float(candidates[best]), float(totals[best] / count))


def cell_masks(side: int, height: int, width: int) -> Bool[Tensor, "cells h w"]:
    """The cells of a grid, row by row, as masks.

    Raises:
        InvalidInput: the cells do not divide the picture.
    """
    if side < 1 or height % side or width % side:
        raise InvalidInput(
            f"{side} x {side} cells are no grid of a picture of {height} x {width} pixels; the "
            "rule is cells that divide it."
        )
    row = torch.arange(height) // (height // side)
    column = torch.arange(width) // (width // side)
    cell = row[:, None] * side + column
    return cell == torch.arange(side * side)[:, None, None]


def _like(masks: Tensor, maps: Tensor) -> Tensor:
    """Masks as (n, t, h, w)."""
    try:
        return masks.to(maps.device, torch.bool).expand(maps.shape)
    except RuntimeError as error:
        raise InvalidInput(
            f"Masks have shape {tuple(masks.shape)}, maps {tuple(maps.shape)}; the rule is one "
            "mask of the size of the maps for each. Upsample the maps first."
        ) from error
