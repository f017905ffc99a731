"""Masks by photo and target, which of them are guided in crops, and how they come to the disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dncbm.data.annotations import Annotated, Annotations, Box
from dncbm.data.views import Views
from dncbm.errors import InvalidInput
from dncbm.guidance.masks import Masks, pairs_in_crops, stored_masks

WHOLE = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
VIEWS = Views(size=8)


def _masks() -> Masks:
    """Photo 1 has targets 0 and 2, photo 3 has 1, photo 4 has 2, in quarters of their own."""
    pixels = np.zeros((4, 8, 8), bool)
    pixels[0, :4, :4] = pixels[1, 4:, 4:] = pixels[2, :4, 4:] = pixels[3, 4:, :4] = True
    return Masks(np.array([1, 1, 3, 4]), np.array([0, 2, 1, 2]), pixels)


def test_pairs_are_those_of_the_batch_in_its_order() -> None:
    """A photo twice, one without annotation, and slots by photo."""
    rows = np.array([4, 0, 1, 4])
    found = pairs_in_crops(_masks(), rows, VIEWS, WHOLE.repeat(4, 1))
    assert found is not None
    assert found.places.tolist() == [0, 2, 2, 3]
    assert found.slots.tolist() == [0, 0, 1, 0]
    assert found.targets.tolist() == [[2, 0], [0, 0], [0, 2], [2, 0]]
    wanted = torch.from_numpy(_masks().pixels[[3, 0, 1, 3]])
    assert torch.equal(found.masks, wanted)
    maps = torch.arange(4 * 2 * 1 * 1).view(4, 2, 1, 1).float()
    assert found.maps(maps).flatten().tolist() == [0, 4, 5, 6]


def test_one_of_each_photos_targets_is_drawn() -> None:
    """Evenly by the draw; the same photo may get another in another step."""
    rows, boxes = np.array([1, 3]), WHOLE.repeat(2, 1)
    for draw, target in ((0.0, 0), (0.49, 0), (0.51, 2), (0.999, 2)):
        draws = torch.tensor([draw, draw])
        found = pairs_in_crops(_masks(), rows, VIEWS, boxes, draws=draws)
        assert found is not None
        assert found.targets.tolist() == [[target], [1]]
        assert found.places.tolist() == [0, 1]


def test_what_a_crop_does_not_show_is_not_guided() -> None:
    """The bottom right quarter shows photo 1's second thing alone, photo 3's not at all."""
    box = torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0])
    found = pairs_in_crops(_masks(), np.array([1, 3]), VIEWS, box.repeat(2, 1))
    assert found is not None
    assert found.targets.tolist() == [[2], [0]]
    assert bool(found.masks.all())
    assert pairs_in_crops(_masks(), np.array([3, 4]), VIEWS, box.repeat(2, 1)) is None
    assert pairs_in_crops(_masks(), np.array([0, 2]), VIEWS, box.repeat(2, 1)) is None


def test_outside_is_all_but_the_mask() -> None:
    """Where the thing is cut away, everything is outside."""
    boxes = torch.stack([WHOLE, torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0])])
    found = pairs_in_crops(_masks(), np.array([3, 3]), VIEWS, boxes, outside=True)
    assert found is not None
    assert torch.equal(found.masks[0], ~torch.from_numpy(_masks().pixels[2]))
    assert bool(found.masks[1].all())


@pytest.mark.parametrize(
    ("rows", "targets", "empty", "message"),
    [
        ([1, 0], [0, 0], False, "rising order"),
        ([1, 1], [2, 2], False, "one per photo and target"),
        ([1, 2], [0, 0], True, "The mask of photo 2 is empty"),
    ],
)
def test_masks_that_mean_nothing_are_refused(
    rows: list[int], targets: list[int], empty: bool, message: str
) -> None:
    pixels = np.ones((2, 4, 4), bool)
    pixels[1] = not empty
    with pytest.raises(InvalidInput, match=message):
        Masks(np.array(rows), np.array(targets), pixels)


def _box(label: str, *sides: int) -> Box:
    return Box(label, *map(float, sides))


def test_annotations_are_stored_once_and_mapped(tmp_path: Path) -> None:
    """Boxes of two classes by photo, stretched with it; a photo whose share is not used is not."""
    photos = {
        "a": Annotated((16, 8), (_box("cat", 0, 0, 8, 8), _box("dog", 8, 4, 16, 8)), ()),
        "c": Annotated((8, 8), (_box("dog", 0, 0, 4, 4), _box("dog", 4, 4, 8, 8)), ()),
        "d": Annotated((8, 8), (_box("cat", 0, 0, 4, 4),), ()),
    }
    ids, wanted = ["a", "b", "c", "d"], np.ones((4, 2), bool)
    wanted[3] = False
    found = stored_masks(
        Annotations(photos), ids, ["cat", "dog"], tmp_path / "m", size=8, wanted=wanted
    )
    assert (found.rows.tolist(), found.targets.tolist()) == ([0, 0, 2], [0, 1, 1])
    pixels = np.zeros((3, 8, 8), bool)
    pixels[0, :, :4] = pixels[1, 4:, 4:] = pixels[2, :4, :4] = pixels[2, 4:, 4:] = True
    assert (found.pixels == pixels).all()
    with pytest.raises(InvalidInput, match="No annotation has the class 'cow'"):
        stored_masks(Annotations(photos), ids, ["cow"], tmp_path / "m", size=8)
    with pytest.raises(InvalidInput, match="None of the 1 photos has a box"):
        stored_masks(Annotations(photos), ["x"], ["cat"], tmp_path / "m", size=8)
