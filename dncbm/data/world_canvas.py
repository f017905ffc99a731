"""The paper that the concept world is drawn on: unit coordinates, named colours, a record.

Coordinates are fractions of the side: x to the right, y downwards, (0, 0) the top left
corner. Everything is drawn at twice the final size and reduced, which smooths edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Number = float | int
Point = tuple[Number, Number]

SUPERSAMPLING = 2

PALETTE: dict[str, Colour] = {
    "red": (206, 44, 44),
    "orange": (238, 132, 36),
    "yellow": (245, 208, 58),
    "green": (64, 142, 62),
    "blue": (48, 104, 200),
    "purple": (128, 72, 168),
    "pink": (236, 130, 172),
    "brown": (122, 82, 50),
    "white": (242, 242, 238),
    "grey": (134, 136, 142),
    "black": (38, 38, 44),
}


@dataclass(frozen=True, slots=True)
class Spot:
    """Where one object stands: middle, foot and height as fractions of the side."""

    x: Number
    y: Number
    s: Number


def shade(colour: Colour, factor: Number) -> Colour:
    """The colour made darker (factor < 1) or lighter (factor > 1), clipped to 0..255."""
    return (
        max(0, min(255, round(colour[0] * factor))),
        max(0, min(255, round(colour[1] * factor))),
        max(0, min(255, round(colour[2] * factor))),
    )


def blend(first: Colour, second: Colour, share: Number) -> Colour:
    """`first` with a `share` in [0, 1] of `second` mixed in."""
    mixed = [round(a + (b - a) * share) for a, b in zip(first, second, strict=True)]
    return (mixed[0], mixed[1], mixed[2])


class Canvas:
    """A square picture under construction, with the words for what it already shows."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = size
        self.concepts: dict[str, None] = {}
        self.things: list[tuple[str, str]] = []
        """Each drawn object as (noun, colour), in drawing order."""
        self._side = size * SUPERSAMPLING
        self._image = Image.new("RGB", (self._side, self._side))
        self._draw = ImageDraw.Draw(self._image)

    def note(self, *words: str) -> None:
        """Record that these concepts are in the picture (each once, in drawing order)."""
        self.concepts.update(dict.fromkeys(words))

    def paint(self, name: str, spread: Number = 14.0) -> Colour:
        """A slightly different tone of the named colour on every call."""
        light = self.rng.uniform(0.88, 1.1)
        tone = np.asarray(PALETTE[name]) * light + self.rng.normal(0.0, spread / 2, 3)
        clipped = np.clip(tone, 0, 255).astype(int)
        return (int(clipped[0]), int(clipped[1]), int(clipped[2]))

    def uniform(self, low: Number, high: Number) -> float:
        """One draw from [low, high)."""
        return float(self.rng.uniform(low, high))

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([self._pixel(p) for p in points], fill=colour)

    def rect(self, x0: Number, y0: Number, x1: Number, y1: Number, colour: Colour) -> None:
        """A filled upright rectangle; the corners may come in any order."""
        low, high = self._pixel((min(x0, x1), min(y0, y1))), self._pixel((max(x0, x1), max(y0, y1)))
        self._draw.rectangle([low, high], fill=colour)

    def ellipse(self, centre: Point, rx: Number, ry: Number, colour: Colour) -> None:
        """A filled ellipse with the given half axes."""
        (x, y) = centre
        box = [self._pixel((x - abs(rx), y - abs(ry))), self._pixel((x + abs(rx), y + abs(ry)))]
        self._draw.ellipse(box, fill=colour)

    def arc(self, centre: Point, rx: Number, ry: Number, colour: Colour, width: Number) -> None:
        """The upper half of an ellipse's outline."""
        (x, y) = centre
        box = [self._pixel((x - rx, y - ry)), self._pixel((x + rx, y + ry))]
        self._draw.arc(box, 180, 360, fill=colour, width=self._width(width))

    def line(self, points: Sequence[Point], colour: Colour, width: Number) -> None:
        """A stroke through the points; `width` is a fraction of the side."""
        pixels = [self._pixel(p) for p in points]
        self._draw.line(pixels, fill=colour, width=self._width(width), joint="curve")

    def gradient(self, y0: Number, y1: Number, top: Colour, bottom: Colour) -> None:
        """A full-width band that fades from one colour to another."""
        first, last = round(y0 * self._side), round(y1 * self._side)
        if last <= first:
            return
        share = np.linspace(0.0, 1.0, last - first)[:, None]
        column = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
        band = np.broadcast_to(column[:, None, :], (last - first, self._side, 3))
        self._image.paste(Image.fromarray(band.astype(np.uint8)), (0, first))

    def haze(self, colour: Colour, share: Number) -> None:
        """Mix a `share` in [0, 1] of one colour into all that was drawn so far."""
        veil = Image.new("RGB", self._image.size, colour)
        self._image = Image.blend(self._image, veil, share)
        self._draw = ImageDraw.Draw(self._image)

    def finish(self, *, light: Number, tint: Colour, noise: Number, blur: Number) -> Image.Image:
        """The finished picture: reduced, lit, tinted and with sensor noise (std in 0..255)."""
        image = self._image.resize((self.size, self.size), Image.Resampling.BOX)
        if blur > 0:
            image = image.filter(ImageFilter.GaussianBlur(blur))
        pixels = np.asarray(image, dtype=np.float32) * light
        pixels = pixels * 0.92 + np.asarray(tint, dtype=np.float32) * 0.08
        pixels += self.rng.standard_normal(pixels.shape, dtype=np.float32) * noise
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    def _pixel(self, point: Point) -> Point:
        return (point[0] * self._side, point[1] * self._side)

    def _width(self, width: Number) -> int:
        return max(1, round(width * self._side))
