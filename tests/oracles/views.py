"""Crops of photos by bilinear interpolation, pixel by pixel in float64."""

import math
from collections.abc import Sequence

import numpy as np


def cropped(
    photos: np.ndarray, boxes: np.ndarray, size: int, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
    """Photos (n, 3, h, w) in bytes and their boxes to normalised pixels (n, 3, size, size)."""
    found = np.zeros((len(photos), 3, size, size))
    for n, (photo, box) in enumerate(zip(photos, boxes, strict=True)):
        height, width, centre_y, centre_x, turned = box
        for i in range(size):
            for j in range(size):
                # shares of the photo, from 0 at its first edge to 1 at its last
                y = (centre_y + 1) / 2 + height * ((i + 0.5) / size - 0.5)
                x = (centre_x + 1) / 2 + width * turned * ((j + 0.5) / size - 0.5)
                levels = between(photo, y * photo.shape[1] - 0.5, x * photo.shape[2] - 0.5)
                found[n, :, i, j] = (levels / 255 - np.array(mean)) / np.array(std)
    return found


def between(photo: np.ndarray, y: float, x: float) -> np.ndarray:
    """Levels at a place between pixel centres; beyond the border those of the border."""
    total = np.zeros(len(photo))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            inside = min(max(row, 0), photo.shape[1] - 1), min(max(column, 0), photo.shape[2] - 1)
            total += weight * photo[:, inside[0], inside[1]]
    return total
