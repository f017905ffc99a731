"""Colour operations and blur, pixel by pixel in float64 (Python's own colorsys for hues)."""

import colorsys
import math

import numpy as np

Array = np.ndarray


def grey(pixel: Array) -> float:
    """ITU-R BT.601."""
    return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


def brightened(image: Array, factor: float) -> Array:
    return np.clip(image * factor, 0, 1)


def contrasted(image: Array, factor: float) -> Array:
    _, height, width = image.shape
    mean = sum(grey(image[:, y, x]) for y in range(height) for x in range(width)) / height / width
    return np.clip(factor * image + (1 - factor) * mean, 0, 1)


def saturated(image: Array, factor: float) -> Array:
    found = np.zeros_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            pixel = image[:, y, x]
            found[:, y, x] = np.clip(factor * pixel + (1 - factor) * grey(pixel), 0, 1)
    return found


def hued(image: Array, turns: float) -> Array:
    found = np.zeros_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            h, s, v = colorsys.rgb_to_hsv(*image[:, y, x])
            found[:, y, x] = colorsys.hsv_to_rgb((h + turns) % 1, s, v)
    return found


def blurred(image: Array, sigma: float, kernel: int) -> Array:
    if sigma == 0:
        return image
    half, (_, height, width) = kernel // 2, image.shape
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-half, half + 1)]
    found = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for i, down in enumerate(weights):
                for j, right in enumerate(weights):
                    row = _mirrored(y + i - half, height)
                    column = _mirrored(x + j - half, width)
                    found[:, y, x] += down * right * image[:, row, column]
    return found / sum(weights) ** 2


def _mirrored(place: int, size: int) -> int:
    if place < 0:
        return -place
    return 2 * (size - 1) - place if place >= size else place
