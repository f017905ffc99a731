"""Scores of maps, mean maps by percentile and grid settings, place by place."""

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray


def mass_ratio(attribution: Array, mask: Array) -> float | None:
    """None where nothing is positive."""
    inside = total = 0.0
    for place in np.ndindex(attribution.shape):
        value = attribution[place]
        if value > 0:
            total += value
            if mask[place]:
                inside += value
    return inside / total if total > 0 else None


def points_inside(attribution: Array, mask: Array, tolerance: float) -> bool:
    best, where = 0.0, None
    for place in np.ndindex(attribution.shape):
        if attribution[place] > best:
            best, where = attribution[place], place
    if where is None:
        return False
    return any(
        mask[place] and (place[0] - where[0]) ** 2 + (place[1] - where[1]) ** 2 <= tolerance**2
        for place in np.ndindex(mask.shape)
    )


def iou(attribution: Array, mask: Array, threshold: float, *, from_least: bool) -> float:
    positive = np.where(attribution > 0, attribution, 0.0)
    low = positive.min() if from_least else 0.0
    width = positive.max() - low
    both = either = 0
    for place in np.ndindex(mask.shape):
        found = width > 0 and (positive[place] - low) / width >= threshold
        both += bool(found and mask[place])
        either += bool(found or mask[place])
    return both / either if either else 0.0


def mean_maps(
    maps: Array, scores: Array, inside: Array, edges: Sequence[int]
) -> tuple[list[Array | None], list[int]]:
    """Mean positive part of each percentile bin, best first, and how many maps each has."""
    order = sorted(range(len(maps)), key=lambda i: (-scores[i], -inside[i], i))
    count, means, numbers = len(maps), [], []
    for low, high in zip(edges, edges[1:], strict=False):
        start, end = ((2 * edge * count + 100) // 200 for edge in (low, high))
        mine = [np.maximum(maps[i], 0) for i in order[start:end]]
        means.append(sum(mine) / len(mine) if mine else None)
        numbers.append(len(mine))
    return means, numbers


def cell(picture: Array, side: int, number: int) -> Array:
    """Part (c, h, w) of a picture (c, hh, ww)."""
    high, wide = picture.shape[1] // side, picture.shape[2] // side
    row, column = divmod(number, side)
    return picture[:, row * high : (row + 1) * high, column * wide : (column + 1) * wide]


def per_cell(network: Callable[[Array], Array], picture: Array, side: int) -> Array:
    """DiFull: outputs (cells, k) of each cell alone."""
    return np.stack([network(cell(picture, side, number)) for number in range(side * side)])


def per_region(
    backbone: Callable[[Array], Array], head: Callable[[Array], Array], picture: Array, side: int
) -> Array:
    """DiPart: outputs (cells, k) of each cell's region of the features of the whole picture."""
    features = backbone(picture)
    return np.stack([head(cell(features, side, number)) for number in range(side * side)])
