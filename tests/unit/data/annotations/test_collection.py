"""What is asked of annotations: masks, targets, shares of photos, other labels."""

import numpy as np
import pytest

from dncbm.data.annotations import Annotated, Annotations, Box, Polygons, Segment
from dncbm.errors import InvalidInput

SQUARE = Polygons((np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]]),))
FOUND = Annotations({
    "a": Annotated((8, 8), (Box("cat", 0.0, 0.0, 4.0, 4.0), Box("dog", 4.0, 4.0, 8.0, 8.0)), ()),
    "b": Annotated((8, 8), (Box("cat", 4.0, 0.0, 8.0, 4.0), Box("cat", 0.0, 4.0, 4.0, 8.0)), ()),
    "c": Annotated((8, 8), (), ()),
    "d": Annotated((8, 8), (Box("dog", 0.0, 0.0, 4.0, 4.0),), (Segment("dog", SQUARE),)),
})  # fmt: skip


def test_masks_are_unions_of_the_boxes_of_a_class() -> None:
    masks = FOUND.masks(["a", "b", "c", "x"], ["cat", "dog"], 2)
    assert masks.shape == (4, 2, 2, 2)
    expected = [[[1, 0, 0, 0], [0, 0, 0, 1]], [[0, 1, 1, 0], [0] * 4], [[0] * 4] * 2, [[0] * 4] * 2]
    np.testing.assert_array_equal(masks.reshape(4, 2, 4), np.array(expected, bool))
    one = FOUND.one_each(["a", "b", "a"], ["dog", "cat", "cat"], 2)
    np.testing.assert_array_equal(one, np.stack([masks[0, 1], masks[1, 0], masks[0, 0]]))
    segments = FOUND.masks(["d", "a"], ["dog"], 2, kind="segments")
    assert segments.reshape(2, 4).tolist() == [[True, False, False, False], [False] * 4]


def test_targets_labels_and_what_is_known() -> None:
    assert FOUND.labels == ("cat", "dog")
    assert FOUND.targets(["a", "b", "c"], ["dog", "cat"]).tolist() == [
        [True, True], [False, True], [False, False],
    ]  # fmt: skip
    assert FOUND.targets([], ["dog"]).shape == (0, 1)
    assert FOUND.known(["a", "c", "x"]).tolist() == [True, True, False]
    assert FOUND.boxes("x") == ()


def test_questions_without_an_answer() -> None:
    for ask in (FOUND.targets, lambda ids, classes: FOUND.masks(ids, classes, 4)):
        with pytest.raises(InvalidInput, match=r"class 'cow' \(1 of 2 .*Annotated are: cat, dog"):
            ask(["a"], ["cat", "cow"])
    only_boxes = Annotations({"a": FOUND.photos["a"]})
    with pytest.raises(InvalidInput, match="have no segments, only boxes"):
        only_boxes.masks(["a"], ["cat"], 4, kind="segments")


def test_boxes_of_some_photos_grow() -> None:
    grown = FOUND.dilated(0.5, ["a", "x"])
    assert grown.photos["a"] == FOUND.dilated(0.5).photos["a"] != FOUND.photos["a"]
    assert all(grown.photos[name] == FOUND.photos[name] for name in FOUND.photos if name != "a")
    assert grown.photos["a"].segments == FOUND.photos["a"].segments


def test_a_share_of_the_photos_keeps_its_boxes() -> None:
    photo = FOUND.photos["a"]
    many = Annotations({f"{i}": photo for i in range(200)})
    among = [f"{i}" for i in range(100)]
    tenth, tenth_again, half = (many.thinned(share, among, seed=1) for share in (0.1, 0.1, 0.5))
    assert tenth == tenth_again
    assert tenth.known(among).sum() == 10
    assert half.known(among).sum() == 50
    assert set(tenth.photos) < set(half.photos)  # smaller shares are parts of larger ones
    assert tenth.known([f"{i}" for i in range(100, 200)]).all()
    assert many.thinned(0.1, among, seed=2) != tenth
    assert many.thinned(1e-9, among, seed=1).known(among).sum() == 1
    assert many.thinned(1.0, among, seed=1).photos == many.photos
    for share in (0.0, 1.1, -1.0, float("nan")):
        with pytest.raises(InvalidInput, match="annotated fraction"):
            many.thinned(share, among, seed=1)


def test_everything_in_a_photo_may_take_the_label_of_the_photo() -> None:
    birds = FOUND.relabelled({"a": "waterbird", "d": "landbird"})
    assert sorted(birds.photos) == ["a", "d"]
    assert birds.labels == ("landbird", "waterbird")
    assert birds.photos["d"].segments[0].label == "landbird"
    assert birds.photos["d"].segments[0].shape is SQUARE


def test_fingerprints_follow_what_is_annotated() -> None:
    same = Annotations(dict(reversed(FOUND.photos.items())))
    assert same.fingerprint == FOUND.fingerprint
    other = Polygons((SQUARE.rings[0] + 1,))
    photo = FOUND.photos["d"]
    changed = Annotated(photo.size, photo.boxes, (Segment("dog", other),))
    for photos in (
        {**FOUND.photos, "d": changed},
        {**FOUND.photos, "e": photo},
        {"a": FOUND.photos["a"]},
    ):
        assert Annotations(photos).fingerprint != FOUND.fingerprint
