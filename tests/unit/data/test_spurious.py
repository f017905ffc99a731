"""Sets with a spurious background: balanced where they say so, and with known masks."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dncbm.data.annotations import Box, read_annotations
from dncbm.data.sources import groups_of, open_source
from dncbm.data.spurious import (
    Composite,
    Composition,
    Cutout,
    Pool,
    compose,
    cut_out,
    pasted,
    write_set,
)  # fmt: skip
from dncbm.errors import InvalidInput

HOW = Composition(size=16, train=20, seed=3)


def pool(seed: int, things: int = 4) -> Pool:
    """Things are red or green, backgrounds blue of two levels."""

    def thing(channel: int) -> Cutout:
        pixels = np.zeros((10, 8, 3), np.uint8)
        pixels[..., channel] = 200 + seed
        return cut_out(pixels, Box("x", 0.0, 0.0, 8.0, 10.0))

    def ground(level: int) -> np.ndarray:
        return np.full((5, 16, 16, 3), (0, 0, level), np.uint8)

    return Pool(
        ([thing(0)] * things, [thing(1)] * (things + 1)), (ground(100), ground(200))
    )  # fmt: skip


POOLS = {name: pool(place) for place, name in enumerate(("train", "validation", "test"))}


def groups(photos: list[Composite]) -> dict[tuple[str, int, int], int]:
    return Counter((photo.split, photo.label, photo.place) for photo in photos)


def test_the_background_goes_with_the_class_in_training_only() -> None:
    photos = list(compose(POOLS, HOW))
    assert groups(photos) == {
        ("train", 0, 0): 10, ("train", 1, 1): 10,
        **{(split, label, place): 4 for split in ("validation", "test")
           for label in (0, 1) for place in (0, 1)},
    }  # fmt: skip
    mostly = groups(list(compose(POOLS, replace(HOW, correlation=0.8))))
    assert [mostly["train", label, place] for label in (0, 1) for place in (0, 1)] == [8, 2, 2, 8]


def test_photos_show_their_class_in_the_mask_and_their_place_around_it() -> None:
    for photo in compose(POOLS, HOW):
        inside, outside = photo.pixels[photo.mask], photo.pixels[~photo.mask]
        assert (inside[:, photo.label].astype(int) > inside[:, 1 - photo.label]).all()
        assert (outside[:, 2] > 0).all()
        assert np.median(outside[:, 2]) == (100, 200)[photo.place]
        sides = [np.ptp(np.flatnonzero(photo.mask.any(axis=axis))) + 1 for axis in (0, 1)]
        assert max(sides) <= 0.75 * 16 + 1


def test_things_of_the_test_are_at_the_same_place_on_both_backgrounds() -> None:
    photos = [photo for photo in compose(POOLS, HOW) if photo.split == "test"]
    for first, second in zip(photos[::2], photos[1::2], strict=True):
        assert (first.place, second.place) == (0, 1)
        np.testing.assert_array_equal(first.mask, second.mask)


def test_the_same_seed_gives_the_same_photos() -> None:
    one, same, other = (
        np.stack([photo.pixels for photo in compose(POOLS, replace(HOW, seed=seed))])
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_pasting_mixes_by_the_edge() -> None:
    """Against one pixel after the other."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    thing = Cutout(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), rng.random((4, 5)))
    pixels, mask = pasted(ground, thing, 2, 3)
    for i in range(9):
        for j in range(9):
            inside = 3 <= i < 7 and 2 <= j < 7
            share = thing.alpha[i - 3, j - 2] if inside else 0.0
            front = thing.pixels[i - 3, j - 2].astype(float) if inside else np.zeros(3)
            assert np.abs(pixels[i, j] - (share * front + (1 - share) * ground[i, j])).max() <= 0.5
            assert mask[i, j] == (share >= 0.5)


def test_cutouts_are_whole_in_the_middle_and_nothing_at_the_corners() -> None:
    photo = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    found = cut_out(photo, Box("x", 3.2, 5.0, 20.0, 24.9))
    np.testing.assert_array_equal(found.pixels, photo[5:25, 3:20])
    assert found.alpha[10, 8] == 1
    assert found.alpha[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0


def test_a_written_set_reads_as_waterbirds_with_its_masks(tmp_path: Path) -> None:
    photos = list(compose(POOLS, HOW))
    assert write_set(tmp_path / "set", photos, ("cat", "car"), ("water", "rock")) == len(photos)
    source = open_source(str(tmp_path / "set"))
    assert Counter(groups_of(source)) == {
        "cat on water": 18, "car on rock": 18, "cat on rock": 8, "car on water": 8,
    }  # fmt: skip
    assert Counter(record.split for record in source.records) == {
        "train": 20, "validation": 16, "test": 16,
    }  # fmt: skip
    found = read_annotations(str(tmp_path / "set"))
    assert not found.errors
    for photo, record in zip(photos, source.records, strict=True):
        label = ("cat", "car")[photo.label]
        assert record.label == label
        mask = found.masks([record.id], [label], 16, kind="segments")[0, 0]
        np.testing.assert_array_equal(mask, photo.mask)
    with pytest.raises(InvalidInput, match="exists"):
        write_set(tmp_path / "set", photos, ("cat", "car"), ("water", "rock"))


@pytest.mark.parametrize(
    "wrong", [{"correlation": 1.1}, {"smallest": 0.0}, {"largest": 0.4}, {"size": 4}, {"train": 1}]
)
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="the rule is"):
        Composition(**wrong)


def test_pools_that_lack_something() -> None:
    for pools in ({"train": pool(0, things=0)}, {"holiday": pool(0)}):
        with pytest.raises(InvalidInput, match="things of both classes"):
            list(compose(pools, HOW))
