"""From pixels of a photo to pixels of a network, and which of them show a thing.

The rule is that of pixel centres: pixel (i, j) of the network belongs to a box if its centre
(j + 0.5, i + 0.5) lies in [left, right) x [top, bottom) of the box as the network sees it, and to
a polygon if a ray from its centre to the left crosses an odd number of edges. A thing that is seen
but covers no centre marks the pixel that holds the middle of its bounds: nothing small disappears.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dncbm.data.annotations.regions import Bitmap, Box, Polygons, Segment, Size
from dncbm.errors import InvalidInput, UnknownName


class Placement(NamedTuple):
    """How a photo lies in the square that a network sees: x' = scale_x * x - left."""

    scale_x: float
    scale_y: float
    left: float
    top: float


Geometry = Callable[[Size, int], Placement]
"""Given the photo's width and height and the square's size."""


def centred(photo: Size, size: int) -> Placement:
    """The middle square, as `dncbm.data.pixels.centred` cuts it."""
    side = min(photo)
    scale = size / side
    return Placement(
        scale, scale, (photo[0] - side) // 2 * scale, (photo[1] - side) // 2 * scale
    )  # fmt: skip


def resized(photo: Size, size: int) -> Placement:
    """All of the photo, its shape not kept (Rao et al. 2023)."""
    return Placement(size / photo[0], size / photo[1], 0.0, 0.0)


def shortest(photo: Size, size: int) -> Placement:
    """The short side scaled, then the middle cut out, as torchvision and open_clip round it."""
    short = min(photo)
    width, height = (size if side == short else int(size * side / short) for side in photo)
    left, top = (int(round((side - size) / 2.0)) for side in (width, height))
    return Placement(width / photo[0], height / photo[1], float(left), float(top))


GEOMETRIES: dict[str, Geometry] = {"centred": centred, "resized": resized, "shortest": shortest}


def geometry_named(name: str) -> Geometry:
    """Raises `UnknownName` with the nearest names."""
    if name not in GEOMETRIES:
        raise UnknownName("geometry", name, GEOMETRIES)
    return GEOMETRIES[name]


def dilated(box: Box, share: float, photo: Size) -> Box:
    """Each side moved out by `share` of the box's width or height, clipped to the photo.

    Raises:
        InvalidInput: a negative share.
    """
    if not 0 <= share < float("inf"):
        raise InvalidInput(f"The dilation is {share}; the rule is a share of at least 0.")
    x, y = share * (box.right - box.left), share * (box.bottom - box.top)
    left, top = max(0.0, box.left - x), max(0.0, box.top - y)
    right, bottom = min(float(photo[0]), box.right + x), min(float(photo[1]), box.bottom + y)
    return Box(box.label, left, top, right, bottom)


def placed(box: Box, place: Placement) -> Box:
    """The box in the network's pixels; what is cut away lies below 0 or above the size."""
    left, right = (place.scale_x * x - place.left for x in (box.left, box.right))
    top, bottom = (place.scale_y * y - place.top for y in (box.top, box.bottom))
    return Box(box.label, left, top, right, bottom)


def draw_box(mask: Bool[np.ndarray, "size size"], box: Box, place: Placement) -> None:
    """Add a box of the photo to the mask of what a network sees."""
    seen = placed(box, place)
    rows, columns = _centres(seen.top, seen.bottom), _centres(seen.left, seen.right)
    if rows.start < rows.stop and columns.start < columns.stop:
        mask[_within(rows, len(mask)), _within(columns, len(mask))] = True
    else:
        _mark_middle(mask, seen)


def draw_segment(
    mask: Bool[np.ndarray, "size size"], segment: Segment, photo: Size, place: Placement
) -> None:
    """Add a polygon or bitmap of the photo to the mask of what a network sees."""
    shape = segment.shape
    if isinstance(shape, Bitmap):
        found = _sampled(shape, photo, place, len(mask))
        x, y = photo[0] / shape.size[0], photo[1] / shape.size[1]
    else:
        found, x, y = _filled(shape, place, len(mask)), 1.0, 1.0
    if found.any():
        mask |= found
        return
    left, top, right, bottom = shape.bounds()
    _mark_middle(mask, placed(Box("", left * x, top * y, right * x, bottom * y), place))


def _centres(start: float, end: float) -> slice:
    """Pixels whose centre lies in [start, end), also those outside the picture."""
    return slice(int(np.ceil(start - 0.5)), int(np.ceil(end - 0.5)))


def _within(span: slice, size: int) -> slice:
    return slice(max(0, span.start), max(0, min(size, span.stop)))


def _mark_middle(mask: Bool[np.ndarray, "size size"], seen: Box) -> None:
    x, y = (seen.left + seen.right) / 2, (seen.top + seen.bottom) / 2
    if 0 <= x < len(mask) and 0 <= y < len(mask):
        mask[int(y), int(x)] = True


def _filled(shape: Polygons, place: Placement, size: int) -> Bool[np.ndarray, "size size"]:
    """Pixels whose centre lies in any of the polygons."""
    found = np.zeros((size, size), bool)
    for ring in shape.rings:
        x = place.scale_x * ring[:, 0] - place.left
        y = place.scale_y * ring[:, 1] - place.top
        found |= _odd(x, y, size)
    return found


def _odd(
    x: Float[np.ndarray, " k"], y: Float[np.ndarray, " k"], size: int
) -> Bool[np.ndarray, "size size"]:
    """Where an odd number of edges lies to the left of, or on, a pixel's centre."""
    centres = np.arange(size) + 0.5
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    # an edge has its upper end, but not its lower one, so that a corner counts once
    rows, edges = np.nonzero((y <= centres[:, None]) != (y_next <= centres[:, None]))
    share = (centres[rows] - y[edges]) / (y_next[edges] - y[edges])
    crossing = x[edges] + share * (x_next[edges] - x[edges])
    columns = np.clip(np.ceil(crossing - 0.5), 0, size).astype(int)
    turns = np.zeros((size, size + 1), int)
    np.add.at(turns, (rows, columns), 1)
    return turns[:, :size].cumsum(axis=1) % 2 == 1


def _sampled(
    shape: Bitmap, photo: Size, place: Placement, size: int
) -> Bool[np.ndarray, "size size"]:
    """The bitmap's pixel under each centre."""
    centres = np.arange(size) + 0.5
    columns = (centres + place.left) / place.scale_x * (shape.size[0] / photo[0]) - shape.left
    rows = (centres + place.top) / place.scale_y * (shape.size[1] / photo[1]) - shape.top
    columns, rows = np.floor(columns).astype(int), np.floor(rows).astype(int)
    across, down = (columns >= 0) & (columns < shape.width), (rows >= 0) & (rows < shape.height)
    found = np.zeros((size, size), bool)
    found[np.ix_(down, across)] = shape.pixels()[np.ix_(rows[down], columns[across])]
    return found
