"""Losses and measures of guided training from their formulas, pixel by pixel in float64."""

import math

import numpy as np


def enlarged(one: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map between the middles of its pixels, bilinearly; beyond them those of the border."""
    found = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = (i + 0.5) * one.shape[0] / size[0] - 0.5
            x = (j + 0.5) * one.shape[1] / size[1] - 0.5
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(y - row)) * (1 - abs(x - column))
                    r = min(max(row, 0), one.shape[0] - 1)
                    c = min(max(column, 0), one.shape[1] - 1)
                    found[i, j] += weight * one[r, c]
    return found


def _scaled(one: np.ndarray) -> np.ndarray:
    largest = max(abs(float(value)) for value in one.flat)
    return one / largest if largest else one


def energy(one: np.ndarray, mask: np.ndarray) -> float:
    """1 minus the share of the positive attribution that lies in the mask."""
    found, inside, total = enlarged(one, mask.shape), 0.0, 0.0
    for place in np.ndindex(mask.shape):
        value = max(found[place], 0.0)
        total += value
        inside += value if mask[place] else 0.0
    return 1 - inside / total if total >= 1e-7 else 1 - inside


def l1(one: np.ndarray, mask: np.ndarray) -> float:
    """Mean distance between the scaled positive part and the mask."""
    found = enlarged(_scaled(np.maximum(one, 0)), mask.shape)
    return sum(abs(float(mask[p]) - found[p]) for p in np.ndindex(mask.shape)) / mask.size


def ppce(one: np.ndarray, mask: np.ndarray) -> float:
    """Mean over the mask of minus the logarithm of the scaled positive part."""
    found = enlarged(_scaled(np.maximum(one, 0)), mask.shape)
    inside = [p for p in np.ndindex(mask.shape) if mask[p]]
    return -sum(math.log(max(found[p], 1e-7)) for p in inside) / len(inside)


def rrr(one: np.ndarray, mask: np.ndarray) -> float:
    """Sum outside of the mask of the squared scaled map."""
    found = enlarged(_scaled(one), mask.shape)
    return sum(found[p] ** 2 for p in np.ndindex(mask.shape) if not mask[p])


def cropped_mask(mask: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """The pixel of the mask in which the middle of each pixel of the crop lies."""
    height, width, centre_y, centre_x, turned = (float(value) for value in box)
    found = np.zeros((size, size), dtype=bool)
    for i in range(size):
        for j in range(size):
            y = (centre_y + 1) / 2 + height * ((i + 0.5) / size - 0.5)
            x = (centre_x + 1) / 2 + width * turned * ((j + 0.5) / size - 0.5)
            row = min(max(math.floor(y * mask.shape[0] + 1e-6), 0), mask.shape[0] - 1)
            column = min(max(math.floor(x * mask.shape[1] + 1e-6), 0), mask.shape[1] - 1)
            found[i, j] = mask[row, column]
    return found
