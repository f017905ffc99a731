"""The grid pointing game: is what speaks for a class found in the cell that shows it?

Images of different classes are put side by side in one picture, which the network sees as a whole.
The score of a cell is the share of the positive attribution for its class that lies in it (Böhle et
al. 2021; Rao et al. 2022, eq. 1): 1 is perfect, 1 / cells is what a uniform map gets.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dncbm.attribution.methods import smoothed
from dncbm.errors import InvalidInput


class Grids(NamedTuple):
    """Pictures of several classes."""

    images: Float[Tensor, "g c hh ww"]
    classes: Int64[Tensor, "g cells"]
    """Class of each cell, row by row."""
    sources: Int64[Tensor, "g cells"]
    """Which image fills each cell."""


def make_grids(
    images: Float[Tensor, "m c h w"],
    labels: Int64[Tensor, "m"],
    confidences: Float[Tensor, "m"] | None = None,
    *,
    side: int = 2,
    count: int = 500,
    seed: int = 42,
) -> Grids:
    """Pictures of `side` x `side` images, each of another class.

    The images of each class are used from the most to the least confident one, then again; classes
    take turns in random order.

    Args:
        images: those that the network classifies rightly, all of one size.
        labels: their classes.
        confidences: of the network, for its own grids; without them, in the order given.
        side: cells along a side.
        count: number of grids.
        seed: of the order of classes.

    Raises:
        InvalidInput: fewer classes than cells.
    """
    cells = side * side
    order = torch.arange(len(labels))
    if confidences is not None:
        order = confidences.argsort(descending=True, stable=True)
    known = labels.unique()
    if side < 1 or count < 1 or len(known) < cells:
        raise InvalidInput(
            f"{count} grids of {side} x {side} cells need {cells} classes with images that the "
            f"model gets right; there are {len(known)}. Give more images, or smaller grids."
        )
    ranked = {int(k): order[labels[order] == k] for k in known}
    draw, used = torch.Generator().manual_seed(seed), dict.fromkeys(ranked, 0)
    chosen = []
    for _ in range(count):
        row = []
        for k in known[torch.randperm(len(known), generator=draw)[:cells]].tolist():
            row.append(int(ranked[k][used[k] % len(ranked[k])]))
            used[k] += 1
        chosen.append(row)
    sources = torch.tensor(chosen)
    return Grids(tiled(images[sources], side), labels[sources], sources)


def tiled(cells: Float[Tensor, "g cells c h w"], side: int) -> Float[Tensor, "g c hh ww"]:
    """Cells, row by row, as one picture."""
    return torch.cat([torch.cat(row.unbind(1), dim=3) for row in cells.split(side, dim=1)], dim=2)


def grid_pg(
    maps: Float[Tensor, "g cells hh ww"], *, smoothing: int = 1
) -> Float[Tensor, "g cells"]:
    """Share of each map's positive part in its own cell; 0 where nothing is positive.

    Args:
        maps: attribution for the class of each cell, over the whole picture.
        smoothing: side of the window over which maps are averaged before their negative part goes.

    Raises:
        InvalidInput: the cells are no square, or do not divide the picture.
    """
    cells, (high, wide) = maps.shape[1], maps.shape[-2:]
    side = round(cells**0.5)
    if side * side != cells or high % side or wide % side:
        raise InvalidInput(
            f"{cells} maps of {high} x {wide} pixels are no grid; the rule is one map per cell of "
            "a square grid that divides the picture."
        )
    positive = smoothed(maps, smoothing).clamp_min(0)
    parts = positive.unflatten(-1, (side, -1)).unflatten(-3, (side, -1))
    mass = parts.sum(dim=(-3, -1)).flatten(-2).double()
    own = mass.diagonal(dim1=1, dim2=2)
    total = mass.sum(dim=2)
    return torch.where(total > 0, own / total.clamp_min(1e-300), 0.0)
