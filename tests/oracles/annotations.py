"""Masks pixel by pixel: is the centre of a network's pixel in the box, polygon or bitmap?"""

import math
from collections.abc import Sequence

import numpy as np

Corners = Sequence[tuple[float, float]]


def seen(
    x: float, y: float, photo: tuple[int, int], size: int, geometry: str
) -> tuple[float, float]:
    """Where a point of the photo lies in the square."""
    width, height = photo
    if geometry == "resized":
        return x * size / width, y * size / height
    side = min(width, height)
    if geometry == "centred":
        scale = size / side
        return scale * x - (width - side) // 2 * scale, scale * y - (height - side) // 2 * scale
    wide = size if width == side else int(size * width / side)
    high = size if height == side else int(size * height / side)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return wide / width * x - left, high / height * y - top


def box_mask(
    box: tuple[float, float, float, float], photo: tuple[int, int], size: int, geometry: str,
    dilation: float = 0.0,
) -> np.ndarray:  # fmt: skip
    left, top, right, bottom = box
    across, down = dilation * (right - left), dilation * (bottom - top)
    left, right = max(0, left - across), min(photo[0], right + across)
    top, bottom = max(0, top - down), min(photo[1], bottom + down)
    left, top = seen(left, top, photo, size, geometry)
    right, bottom = seen(right, bottom, photo, size, geometry)
    mask = np.zeros((size, size), bool)
    # also centres beyond the square: a box that covers some of them was cut away, not too small
    covers_any = False
    beyond = 4 * size
    for i in range(-beyond, beyond):
        for j in range(-beyond, beyond):
            if left <= j + 0.5 < right and top <= i + 0.5 < bottom:
                covers_any = True
                if 0 <= i < size and 0 <= j < size:
                    mask[i, j] = True
    if not covers_any:
        mark(mask, (left + right) / 2, (top + bottom) / 2)
    return mask


def mark(mask: np.ndarray, x: float, y: float) -> None:
    i, j = math.floor(y), math.floor(x)
    if 0 <= i < len(mask) and 0 <= j < len(mask):
        mask[i, j] = True


def polygon_mask(
    rings: Sequence[Corners], photo: tuple[int, int], size: int, geometry: str
) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    placed = [[seen(x, y, photo, size, geometry) for x, y in ring] for ring in rings]
    for i in range(size):
        for j in range(size):
            mask[i, j] = any(_odd(ring, j + 0.5, i + 0.5) for ring in placed)
    if not mask.any():
        xs = [x for ring in placed for x, _ in ring]
        ys = [y for ring in placed for _, y in ring]
        mark(mask, (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
    return mask


def _odd(ring: Corners, x: float, y: float) -> bool:
    inside = False
    for k in range(len(ring)):
        (x0, y0), (x1, y1) = ring[k], ring[(k + 1) % len(ring)]
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
            inside = not inside
    return inside


def bitmap_mask(
    bitmap: np.ndarray,
    photo: tuple[int, int],
    size: int,
    geometry: str,
    nudge: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """By search: which pixel of the bitmap, laid over the photo, holds the nudged centre?"""
    height, width = bitmap.shape
    mask = np.zeros((size, size), bool)
    for v, u in np.argwhere(bitmap):
        left, top = seen(u * photo[0] / width, v * photo[1] / height, photo, size, geometry)
        right, bottom = seen(
            (u + 1) * photo[0] / width, (v + 1) * photo[1] / height, photo, size, geometry
        )
        for i in range(size):
            for j in range(size):
                if left <= j + 0.5 + nudge[0] < right and top <= i + 0.5 + nudge[1] < bottom:
                    mask[i, j] = True
    return mask
