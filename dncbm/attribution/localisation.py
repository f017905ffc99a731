"""Grids of images for localisation: is what speaks for a class found in the cell that shows it?

Images of different classes are put side by side in one picture. The score of a cell is the share of
the positive attribution for its class that lies in it (Böhle et al. 2021; Rao et al. 2022, eq. 1):
1 is perfect, 1 / cells is what a uniform map gets. What a network can see of a picture is a matter
of the setting, see `dncbm.attribution.settings`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dncbm.attribution.methods import smoothed
from dncbm.attribution.scores import cell_masks, mass_ratio
from dncbm.attribution.tiles import stitch
from dncbm.errors import InvalidInput, UnknownName

Confidence = Literal["softmax", "sigmoid", "margin"]
Read = Callable[[Sequence[int]], Float[Tensor, "m c h w"]]
"""Images by their number, decoded when asked for."""


class Grids(NamedTuple):
    """Pictures of several classes."""

    images: Float[Tensor, "g c hh ww"]
    classes: Int64[Tensor, "g cells"]
    """Class of each cell, row by row."""
    sources: Int64[Tensor, "g cells"]
    """Which image fills each cell."""


class Plan(NamedTuple):
    """Which images make which pictures; no pixels yet."""

    classes: Int64[Tensor, "g cells"]
    """Class of each cell, row by row."""
    sources: Int64[Tensor, "g cells"]
    """Which image fills each cell."""
    side: int
    """Cells along a side."""


class Sure(NamedTuple):
    """Images that a network is right and sure about."""

    rows: Int64[Tensor, "m"]
    """Which of the images."""
    confidences: Float[Tensor, "m"]


def sure_images(
    outputs: Float[Tensor, "n k"],
    labels: Int64[Tensor, "n"],
    *,
    by: str = "softmax",
    at_least: float | None = 0.99,
    best_share: float | None = None,
) -> Sure:
    """The images whose largest output is their class, with enough confidence.

    Args:
        outputs: logits of classes, or codes and cosines of concepts and texts.
        labels: classes.
        by: probability of the class (`softmax`, or `sigmoid` of its logit), or `margin`: its output
            minus the largest other one, for outputs that are no logits.
        at_least: lowest confidence; 0.99 in the paper, for probabilities. None: any.
        best_share: keep this share of the images of each class, the most confident and at least
            two, in (0, 1], of those that are left; for margins, whose size means nothing by itself.

    Raises:
        UnknownName: another confidence.
        InvalidInput: a share outside (0, 1].
    """
    if best_share is not None and not 0 < best_share <= 1:
        raise InvalidInput(f"best_share is {best_share}; the rule is above 0 and at most 1.")
    confidences = confidence_of(outputs, labels, by)
    good = outputs.argmax(dim=1) == labels
    if at_least is not None:
        good &= confidences >= at_least
    if best_share is not None:
        good &= _best_of_each(confidences, labels, good, best_share)
    rows = good.nonzero()[:, 0]
    return Sure(rows, confidences[rows])


def confidence_of(
    outputs: Float[Tensor, "n k"], labels: Int64[Tensor, "n"], by: str
) -> Float[Tensor, "n"]:
    """Of each image in its class; see `sure_images`."""
    own = outputs.gather(1, labels[:, None])[:, 0]
    if by == "softmax":
        return outputs.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    if by == "sigmoid":
        return own.sigmoid()
    if by == "margin":
        others = outputs.scatter(1, labels[:, None], float("-inf"))
        return own - others.max(dim=1).values
    raise UnknownName("confidence", by, ("softmax", "sigmoid", "margin"))


def _best_of_each(
    confidences: Tensor, labels: Tensor, good: Tensor, share: float
) -> Bool[Tensor, "n"]:
    """Whether an image is among the most confident good ones of its class; at least two are."""
    kept = torch.zeros_like(good)
    for k in labels[good].unique().tolist():
        mine = (good & (labels == k)).nonzero()[:, 0]
        best = confidences[mine].argsort(descending=True, stable=True)
        kept[mine[best[: max(2, int(share * len(mine)))]]] = True
    return kept


def plan_grids(
    labels: Int64[Tensor, "m"],
    confidences: Float[Tensor, "m"] | None = None,
    *,
    side: int = 2,
    count: int = 500,
    seed: int = 42,
    corners: bool = False,
) -> Plan:
    """Pictures of `side` x `side` images, each of another class.

    The images of each class are used from the most to the least confident one, then again; classes
    take turns in random order.

    Args:
        labels: classes of the images.
        confidences: of the network, for its own grids; without them, in the order given.
        side: cells along a side.
        count: number of pictures.
        seed: of the order of classes.
        corners: bottom-right repeats the class of top-left with another image, so that a map that
            only shows where the class is gets both corners wrong (DiFull and DiPart).

    Raises:
        InvalidInput: fewer classes than there are in a picture, or none with two images where
            corners repeat one.
    """
    cells = side * side
    distinct = cells - 1 if corners else cells
    order = torch.arange(len(labels))
    if confidences is not None:
        order = confidences.argsort(descending=True, stable=True)
    known = labels.unique()
    _require_enough(known, labels, side, count, distinct, corners=corners)
    ranked = {int(k): order[labels[order] == k] for k in known}
    draw, used = torch.Generator().manual_seed(seed), dict.fromkeys(ranked, 0)
    chosen = []
    for _ in range(count):
        drawn = known[torch.randperm(len(known), generator=draw)].tolist()
        classes = _with_corners(drawn, ranked, distinct) if corners else drawn[:cells]
        row = []
        for k in classes:
            row.append(int(ranked[k][used[k] % len(ranked[k])]))
            used[k] += 1
        chosen.append(row)
    sources = torch.tensor(chosen)
    return Plan(labels[sources], sources, side)


def _with_corners(drawn: list[int], ranked: dict[int, Tensor], distinct: int) -> list[int]:
    """The first class with two images in both corners, the next ones between them."""
    first = next(k for k in drawn if len(ranked[k]) > 1)
    return [first, *[k for k in drawn if k != first][: distinct - 1], first]


def _require_enough(
    known: Tensor, labels: Tensor, side: int, count: int, distinct: int, *, corners: bool
) -> None:
    if side < 1 or count < 1 or len(known) < distinct or (corners and side < 2):
        raise InvalidInput(
            f"{count} grids of {side} x {side} cells need {distinct} classes with images that the "
            f"model gets right; there are {len(known)}. Give more images, or smaller grids."
        )
    if corners and int(labels.bincount().max()) < 2:
        raise InvalidInput(
            "Both corners of a grid show one class, each another image; no class has two images "
            "that the model gets right. Give more images, or lower the confidence that is asked "
            "for."
        )


def grids_of(plan: Plan, read: Read, *, at_once: int) -> Iterator[Grids]:
    """The pictures of a plan, a few at a time: what is held are the images of so many pictures.

    Args:
        plan: of `plan_grids`.
        read: gives images; each is asked for once per batch.
        at_once: pictures per batch.

    Raises:
        InvalidInput: no picture at a time.
    """
    if at_once < 1:
        raise InvalidInput(f"at_once is {at_once}; the rule is at least 1.")
    for start in range(0, len(plan.sources), at_once):
        sources = plan.sources[start : start + at_once]
        rows, places = sources.unique(return_inverse=True)
        images = read(rows.tolist())
        pictures = tiled(images[places.to(images.device)], plan.side)
        yield Grids(pictures, plan.classes[start : start + at_once], sources)


def make_grids(
    images: Float[Tensor, "m c h w"],
    labels: Int64[Tensor, "m"],
    confidences: Float[Tensor, "m"] | None = None,
    *,
    side: int = 2,
    count: int = 500,
    seed: int = 42,
    corners: bool = False,
) -> Grids:  # fmt: skip
    """All pictures of `plan_grids` at once, of images in memory.

    Raises:
        InvalidInput: as there.
    """
    plan = plan_grids(labels, confidences, side=side, count=count, seed=seed, corners=corners)
    return Grids(tiled(images[plan.sources], side), plan.classes, plan.sources)


def tiled(cells: Float[Tensor, "g cells c h w"], side: int) -> Float[Tensor, "g c hh ww"]:
    """Cells, row by row, as one picture."""
    return stitch(cells.flatten(0, 1), side)


def grid_pg(
    maps: Float[Tensor, "g t hh ww"], *, smoothing: int = 1, side: int | None = None,
    scored: Sequence[int] | None = None,
) -> Float[Tensor, "g t"]:  # fmt: skip
    """Share of each map's positive part in its own cell; 0 where nothing is positive.

    Args:
        maps: attribution for the class of each cell, over the whole picture.
        smoothing: side of the window over which maps are averaged before their negative part goes.
        side: cells along a side; by default there is a map for every cell.
        scored: which cell each map is for, where there is not one for every cell.

    Raises:
        InvalidInput: the cells are no square, or do not divide the picture.
    """
    count, (high, wide) = maps.shape[1], maps.shape[-2:]
    side = round(count**0.5) if side is None else side
    cells = range(side * side) if scored is None else scored
    if len(cells) != count or high % side or wide % side:
        raise InvalidInput(
            f"{count} maps of {high} x {wide} pixels are no grid; the rule is one map per cell of "
            "a square grid that divides the picture."
        )
    masks = cell_masks(side, high, wide)[list(cells)]
    return mass_ratio(smoothed(maps, smoothing), masks)
