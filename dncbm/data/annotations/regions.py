"""Where things are in a photo: boxes, polygons and bitmaps, in pixels of the upright photo.

Coordinates are continuous: pixel i covers [i, i + 1), so a box around one pixel has width 1. Files
that count otherwise (VOC from 1, both ends inside) are converted when they are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Size = tuple[int, int]
"""Width and height."""


class BadAnnotation(Exception):
    """One annotation cannot be used; the message is the reason that users see in a list."""


@dataclass(frozen=True, slots=True)
class Box:
    """A thing's bounds; `right` and `bottom` are where it ends."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Polygons:
    """One thing's outline as closed polygons; what lies in any of them (even-odd) belongs to it."""

    rings: tuple[Float[np.ndarray, "_ 2"], ...]
    """Corners (x, y) of each."""

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of all corners."""
        corners = np.concatenate(self.rings)
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def scaled(self, x: float, y: float) -> "Polygons":
        """The same outline in a photo of another size."""
        return Polygons(tuple(ring * (x, y) for ring in self.rings))


@dataclass(frozen=True, slots=True)
class Bitmap:
    """One thing's pixels; packed, and cut to their bounds, as a data set may have thousands."""

    size: Size
    """Of the whole mask."""
    left: int
    top: int
    width: int
    height: int
    bits: bytes

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "h w"]) -> "Bitmap":
        """Raises `BadAnnotation` for a mask without a pixel."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows) == 0:
            raise BadAnnotation("the mask is empty: no pixel belongs to anything")
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        cut = mask[top:bottom, left:right]
        size = (mask.shape[1], mask.shape[0])
        height, width = cut.shape
        return cls(size, int(left), int(top), width, height, np.packbits(cut).tobytes())

    def pixels(self) -> Bool[np.ndarray, "height width"]:
        """Those within the bounds."""
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.height * self.width)
        return bits.reshape(self.height, self.width).astype(bool)

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels of the mask."""
        right, bottom = self.left + self.width, self.top + self.height
        return float(self.left), float(self.top), float(right), float(bottom)

    def scaled(self, _x: float, _y: float) -> "Bitmap":
        """Itself: it is read by shares of its size."""
        return self


@dataclass(frozen=True, slots=True)
class Segment:
    """Which pixels show a thing."""

    label: str
    shape: Polygons | Bitmap


@dataclass(frozen=True, slots=True)
class Regions:
    """What one file says about one photo."""

    boxes: tuple[Box, ...] = ()
    segments: tuple[Segment, ...] = ()
    size: Size | None = None
    """Of the photo, where the annotation says it."""


@dataclass(frozen=True, slots=True)
class Annotated:
    """What is known about one photo, checked: all boxes lie within it and have an area."""

    size: Size
    boxes: tuple[Box, ...]
    segments: tuple[Segment, ...]


def fitted(found: Sequence[Regions], size: Size) -> Annotated:
    """All that is said about one photo, checked against it.

    It is scaled where the photo was made smaller or larger as a whole. What lies partly outside is
    clipped. Of labels with segments alone, their bounds are the boxes.

    Raises:
        BadAnnotation: something is wholly outside or has no area, or the sizes do not agree.
    """
    scaled = [_scaled(regions, size) for regions in found]
    segments = tuple(segment for regions in scaled for segment in regions.segments)
    around = tuple(_around(segment, size) for segment in segments)
    boxes = tuple(clipped(box, size) for regions in scaled for box in regions.boxes)
    boxed = {box.label for box in boxes}
    return Annotated(size, boxes + tuple(b for b in around if b.label not in boxed), segments)


def _scaled(regions: Regions, size: Size) -> Regions:
    x, y = _scale(regions.size, size)
    if (x, y) == (1.0, 1.0):
        return regions
    boxes = (Box(b.label, b.left * x, b.top * y, b.right * x, b.bottom * y) for b in regions.boxes)
    segments = (Segment(s.label, s.shape.scaled(x, y)) for s in regions.segments)
    return Regions(tuple(boxes), tuple(segments), size)


def clipped(box: Box, size: Size) -> Box:
    """The part of a box that lies in the photo.

    Raises:
        BadAnnotation: no part does, or the box has no area.
    """
    sides = (box.left, box.top, box.right, box.bottom)
    shown = "({:g}, {:g}, {:g}, {:g})".format(*sides)
    if not np.isfinite(sides).all():
        raise BadAnnotation(f"the box {shown} of {box.label!r} is not finite")
    if box.right <= box.left or box.bottom <= box.top:
        raise BadAnnotation(
            f"the box {shown} of {box.label!r} has no area; the rule is left < right, top < bottom"
        )
    width, height = size
    if box.left >= width or box.top >= height or box.right <= 0 or box.bottom <= 0:
        raise BadAnnotation(
            f"the box {shown} of {box.label!r} lies outside the photo of {width} x {height} pixels"
        )
    left, right = max(box.left, 0.0), min(box.right, float(width))
    top, bottom = max(box.top, 0.0), min(box.bottom, float(height))
    return Box(box.label, left, top, right, bottom)


def _scale(stated: Size | None, size: Size) -> tuple[float, float]:
    if stated is None or stated == size:
        return 1.0, 1.0
    if min(stated) < 1:
        raise BadAnnotation(f"the annotation states a size of {stated[0]} x {stated[1]} pixels")
    x, y = size[0] / stated[0], size[1] / stated[1]
    # one scale for both sides, up to the rounding of the shorter one
    if abs(stated[0] * y - size[0]) > 1 and abs(stated[1] * x - size[1]) > 1:
        raise BadAnnotation(
            f"the annotation is for {stated[0]} x {stated[1]} pixels, the photo has "
            f"{size[0]} x {size[1]}, which is another shape"
        )
    return x, y


def _around(segment: Segment, size: Size) -> Box:
    """Raises `BadAnnotation` for a segment without an area in the photo."""
    left, top, right, bottom = segment.shape.bounds()
    if isinstance(segment.shape, Bitmap):
        x, y = size[0] / segment.shape.size[0], size[1] / segment.shape.size[1]
        left, top, right, bottom = left * x, top * y, right * x, bottom * y
    elif not any(_area(ring) > 0 for ring in segment.shape.rings):
        raise BadAnnotation(f"the polygon of {segment.label!r} has no area")
    return clipped(Box(segment.label, left, top, right, bottom), size)


def _area(ring: Float[np.ndarray, "k 2"]) -> float:
    """Twice the enclosed area (shoelace formula)."""
    x, y = (ring - ring[0]).T  # differences first: far from 0 the products would cancel
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)))
