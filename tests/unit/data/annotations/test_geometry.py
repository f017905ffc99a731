"""Boxes, polygons and bitmaps of a photo as masks of what a network sees."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from dncbm.data.annotations.collection import Annotations
from dncbm.data.annotations.geometry import GEOMETRIES
from dncbm.data.annotations.regions import (
    Annotated,
    Bitmap,
    Box,
    Polygons,
    Regions,
    Segment,
    fitted,
)  # fmt: skip
from dncbm.data.pixels import centred
from dncbm.errors import InvalidInput, UnknownName
from tests.oracles import annotations as oracle

NAMES = sorted(GEOMETRIES)
sides = st.integers(3, 24)
shares = st.floats(0, 1, allow_subnormal=False)
quarters = st.integers(0, 96).map(lambda n: n / 4)
"""So that edges lie on centres and borders, not only between them."""


def drawn(
    found: Annotated, size: int, geometry: str, kind: str = "boxes", dilation: float = 0.0
) -> np.ndarray:
    of = Annotations({"photo": found}).dilated(dilation)
    return of.masks(["photo"], ["x"], size, geometry=geometry, kind=kind)[0, 0]


@settings(deadline=None, max_examples=60)
@given(
    photo=st.tuples(sides, sides), corners=st.tuples(quarters, quarters, quarters, quarters),
    size=st.integers(1, 7), geometry=st.sampled_from(NAMES),
    dilation=st.sampled_from([0.0, 0.1, 0.5]),
)  # fmt: skip
def test_boxes_equal_the_oracle(
    photo: tuple[int, int], corners: tuple[float, ...], size: int, geometry: str, dilation: float
) -> None:
    left, right = sorted(min(c, float(photo[0])) for c in corners[:2])
    top, bottom = sorted(min(c, float(photo[1])) for c in corners[2:])
    assume(left < right and top < bottom and max(photo) <= 4 * min(photo))
    found = drawn(
        Annotated(photo, (Box("x", left, top, right, bottom),), ()), size, geometry,
        dilation=dilation,
    )  # fmt: skip
    expected = oracle.box_mask((left, top, right, bottom), photo, size, geometry, dilation)
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=120)
@given(
    photo=st.tuples(sides, sides), size=st.integers(1, 9), geometry=st.sampled_from(NAMES),
    rings=st.lists(
        st.lists(st.tuples(quarters, quarters), min_size=3, max_size=6), min_size=1, max_size=2
    ),
    same=st.booleans(),
)  # fmt: skip
def test_polygons_equal_the_oracle(
    photo: tuple[int, int], size: int, geometry: str, rings: list[list[tuple[float, float]]],
    same: bool,
) -> None:  # fmt: skip
    photo = (size, size) if same else photo  # so that corners lie on centres
    shape = Polygons(tuple(np.array(ring, dtype=float) for ring in rings))
    box = Box("x", 0.0, 0.0, 1.0, 1.0)
    found = drawn(Annotated(photo, (box,), (Segment("x", shape),)), size, geometry, "segments")
    np.testing.assert_array_equal(found, oracle.polygon_mask(rings, photo, size, geometry))


@settings(deadline=None, max_examples=40)
@given(
    photo=st.tuples(sides, sides), size=st.integers(1, 9), geometry=st.sampled_from(NAMES),
    seed=st.integers(0, 1000), finer=st.sampled_from([1, 2]),
)  # fmt: skip
def test_bitmaps_equal_the_oracle(
    photo: tuple[int, int], size: int, geometry: str, seed: int, finer: int
) -> None:
    rng = np.random.default_rng(seed)
    bitmap = rng.random((photo[1] * finer, photo[0] * finer)) < 0.3
    assume(bitmap.any())
    # centres on the border of two pixels may fall to either by rounding
    nudges = itertools.product((-1e-9, 1e-9), repeat=2)
    expected, *others = (oracle.bitmap_mask(bitmap, photo, size, geometry, n) for n in nudges)
    assume(
        all(mask.any() for mask in (expected, *others))
    )  # else one pixel is marked, which has a test of its own
    segment = Segment("x", Bitmap.of(bitmap))
    found = drawn(
        Annotated(photo, (Box("x", 0.0, 0.0, 1.0, 1.0),), (segment,)), size, geometry, "segments"
    )
    sure = np.all([expected == other for other in others], axis=0)
    np.testing.assert_array_equal(found[sure], expected[sure])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), chance=st.floats(0.05, 1))
def test_bitmaps_keep_their_pixels(seed: int, chance: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 20, 2)) < chance
    assume(mask.any())
    bitmap = Bitmap.of(mask)
    found = np.zeros_like(mask)
    left, top, right, bottom = map(int, bitmap.bounds())
    found[top:bottom, left:right] = bitmap.pixels()
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("photo", [(90, 60), (61, 97), (64, 64), (50, 201)])
@pytest.mark.parametrize("geometry", NAMES)
def test_masks_lie_where_photos_show_the_thing(geometry: str, photo: tuple[int, int]) -> None:
    """A white box drawn into a photo, which then goes the way of all photos."""
    size, kind = 48, InterpolationMode.BICUBIC
    ways = {
        "centred": centred(size),
        "resized": lambda image: np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)),
        "shortest": lambda image: np.asarray(
            Compose([Resize(size, kind), CenterCrop(size)])(image)
        ),
    }
    width, height = photo
    left, top = float(width // 3), float(height // 3)
    box = Box("x", left, top, left + width // 4, top + height // 4)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] = 255
    shown = np.asarray(ways[geometry](Image.fromarray(pixels)))[..., 0] >= 128
    mask = drawn(Annotated(photo, (box,), ()), size, geometry)
    assert shown.any()
    assert (mask & shown).sum() / (mask | shown).sum() > 0.9


def test_small_things_do_not_disappear_and_things_cut_away_do() -> None:
    photo = (300, 100)
    tiny = Annotated(photo, (Box("x", 150.2, 50.1, 150.3, 50.2),), ())
    assert drawn(tiny, 10, "centred").sum() == drawn(tiny, 10, "centred")[5, 5] == 1
    shape = Polygons((np.array([[150.1, 50.1], [150.2, 50.1], [150.2, 50.3]]),))
    thin = fitted([Regions((), (Segment("x", shape),))], photo)
    assert drawn(thin, 10, "centred", "segments").sum() == 1
    pixel = np.zeros((100, 300), bool)
    pixel[50, 150] = True
    dot = fitted([Regions((), (Segment("x", Bitmap.of(pixel)),))], photo)
    assert drawn(dot, 10, "centred", "segments").sum() == 1
    aside = Annotated(photo, (Box("x", 0.0, 0.0, 90.0, 100.0),), ())
    assert not drawn(aside, 10, "centred").any()
    assert drawn(aside, 10, "resized").sum() == 30


def test_dilation_moves_each_side_by_a_share_of_the_box_and_stays_in_the_photo() -> None:
    photo = Annotated((100, 100), (Box("x", 10.0, 40.0, 30.0, 50.0),), ())
    assert drawn(photo, 100, "resized").sum() == 20 * 10
    assert drawn(photo, 100, "resized", dilation=0.5).sum() == 40 * 20
    assert drawn(photo, 100, "resized", dilation=1.0).sum() == 50 * 30
    with pytest.raises(InvalidInput, match="dilation is -1"):
        drawn(photo, 10, "resized", dilation=-1.0)


def test_an_unknown_geometry_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Nearest known names: centred"):
        drawn(Annotated((4, 4), (Box("x", 0.0, 0.0, 1.0, 1.0),), ()), 4, "centered")
