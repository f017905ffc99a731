"""Slow, plain versions of the encoder room's arithmetic, in float64."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image


def normalised_pixels(
    image: Image.Image, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
    """(3, h, w): (value / 255 - mean) / std, one pixel after the other."""
    result = np.zeros((3, image.height, image.width))
    for y in range(image.height):
        for x in range(image.width):
            for channel, value in enumerate(image.getpixel((x, y))):
                result[channel, y, x] = (value / 255 - mean[channel]) / std[channel]
    return result


def prompt_ensemble(
    texts: Sequence[str], templates: Sequence[str], embed_one: Callable[[str], np.ndarray]
) -> np.ndarray:
    """Rows: mean over templates of unit embeddings, then scaled to length one."""
    rows = []
    for text in texts:
        units = []
        for template in templates:
            raw = embed_one(template.replace("{}", text)).astype(np.float64)
            units.append(raw / np.sqrt((raw**2).sum()))
        mean = sum(units) / len(units)
        rows.append(mean / np.sqrt((mean**2).sum()))
    return np.array(rows)


def smallest_cosine(rows: np.ndarray, reference: np.ndarray) -> float:
    """The smallest cosine of a row with the row of the same number, one after the other."""
    cosines = []
    for a, b in zip(rows.astype(np.float64), reference.astype(np.float64), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        lengths = sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5
        cosines.append(dot / lengths)
    return min(cosines)
