"""Each format gives the same boxes and masks, from folders and zips."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dncbm.data.annotations import Annotations, Box, read_annotations
from dncbm.data.sources import open_source
from dncbm.errors import InvalidInput, UnknownName
from tests.unit.data.annotations.sets import coco, grey, indexed, jpeg, voc, write, zipped

FIRST = (Box("cat", 4.0, 3.0, 20.0, 15.0),)
"""Of a photo of 40 x 30 pixels."""
YOLO = "0 0.3 0.3 0.4 0.4\n"
SETS = {
    "voc": {"JPEGImages/1.jpg": jpeg(), "Annotations/1.xml": voc(("cat", 5, 4, 20, 15))},
    "voc beside": {"1.jpg": jpeg(), "1.xml": voc(("cat", 5, 4, 20, 15))},
    "coco": {"images/1.jpg": jpeg(), "instances.json": coco({"bbox": [4, 3, 16, 12]})},
    "yolo": {
        "images/train/1.jpg": jpeg(), "labels/train/1.txt": YOLO, "data.yaml": "names: [cat, dog]",
    },
    "yolo names": {"a/images/1.jpg": jpeg(), "a/labels/1.txt": YOLO, "a/classes.txt": "cat\ndog"},
    "yolo beside": {"1.jpg": jpeg(), "1.txt": YOLO, "classes.txt": "cat\n"},
    "tiny-imagenet": {
        "train/cat/images/1.jpg": jpeg(), "train/cat/cat_boxes.txt": "1.jpg\t4\t3\t19\t14",
    },
    "tiny-imagenet val": {
        "val/images/1.jpg": jpeg(), "val/val_annotations.txt": "1.jpg\tcat\t4\t3\t19\t14",
    },
    "cub": {
        "images/cat/1.jpg": jpeg(), "images.txt": "1 cat/1.jpg\n",
        "bounding_boxes.txt": "1 4.0 3.0 16.0 12.0\n",
    },
}  # fmt: skip


def only(annotations: Annotations) -> str:
    (name,) = annotations.photos
    return name


@pytest.mark.parametrize("kind", sorted(SETS))
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_gives_the_same_box(kind: str, packed: bool, tmp_path: Path) -> None:
    files = SETS[kind]
    place = zipped(tmp_path / "s.zip", files) if packed else write(tmp_path / "s", files)
    found = read_annotations(str(place))
    assert not found.errors
    assert found.boxes(only(found)) == pytest.approx(FIRST) or _near(found.boxes(only(found)))
    assert found.photos[only(found)].size == (40, 30)
    assert only(found) == next(r.id for r in open_source(str(place)).records)


def _near(boxes: tuple[Box, ...]) -> bool:
    """YOLO's shares are rounded."""
    (box,), (wanted,) = boxes, FIRST
    sides = [(b.left, b.top, b.right, b.bottom) for b in (box, wanted)]
    return box.label == wanted.label and np.allclose(*sides)


def test_polygons_and_boxes_of_two_label_sets_are_joined(tmp_path: Path) -> None:
    """As COCO128 has them: each set with numbers of its own."""
    files = {
        "images/train/1.jpg": jpeg(), "images/train/2.jpg": jpeg(seed=1),
        "boxes/config.yaml": "names:\n  0: cat\n", "boxes/labels/train/1.txt": YOLO,
        "shapes/config.yaml": "names: {17: cat}",
        "shapes/labels/train/1.txt": "17 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n",
        "shapes/labels/train/2.txt": "17 0.1 0.1 0.5 0.1 0.5 0.5\n",
    }  # fmt: skip
    place = zipped(tmp_path / "s.zip", files)
    found = read_annotations(str(place))
    first, second = sorted(found.photos)
    assert _near(found.boxes(first))
    assert len(found.photos[first].segments) == 1
    assert _near(found.boxes(second))  # around its polygon
    alone = read_annotations(f"{place}/boxes")
    assert list(alone.photos) == [first]
    assert not alone.photos[first].segments


def test_an_empty_label_file_says_that_nothing_is_there(tmp_path: Path) -> None:
    files = SETS["yolo"] | {"images/train/2.jpg": jpeg(seed=1), "labels/train/2.txt": "\n"}
    found = read_annotations(str(write(tmp_path, files)))
    ids = ["images/train/1.jpg", "images/train/2.jpg", "images/train/3.jpg"]
    assert found.known(ids).tolist() == [True, True, False]
    assert found.targets(ids, ["cat"]).tolist() == [[True], [False], [False]]


def test_numbers_are_names_where_nobody_names_them(tmp_path: Path) -> None:
    found = read_annotations(str(write(tmp_path, {"1.jpg": jpeg(), "1.txt": YOLO})))
    assert found.labels == ("0",)


@pytest.mark.parametrize("packed", [False, True])
def test_run_lengths_of_coco(packed: bool, tmp_path: Path) -> None:
    """Numbers, or text as pycocotools packs them; down the columns."""
    mask = np.zeros((30, 40), bool)
    mask[3:15, 4:20] = True
    lengths = [123, 12, *[18, 12] * 15, 1200 - 123 - 12 - 30 * 15]
    text = _packed(lengths)
    counts = text if packed else lengths
    document = coco({"segmentation": {"size": [30, 40], "counts": counts}, "iscrowd": 1})
    found = read_annotations(str(write(tmp_path, {"1.jpg": jpeg(), "instances_x.json": document})))
    assert found.boxes("1.jpg") == FIRST
    seen = found.masks(["1.jpg"], ["cat"], 40, geometry="resized", kind="segments")[0, 0]
    rows = ((np.arange(40) + 0.5) * 30 / 40).astype(int)
    np.testing.assert_array_equal(seen, mask[rows])


def _packed(lengths: list[int]) -> str:
    """The encoder of pycocotools, written from its description."""
    text = ""
    for place, length in enumerate(lengths):
        value = length - lengths[place - 2] if place > 2 else length
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 if more else bits))
    return text


def test_coco_says_which_category_and_photo(tmp_path: Path) -> None:
    document = coco(
        {"bbox": [4, 3, 16, 12], "segmentation": [[4, 3, 20, 3, 20, 15, 4, 15]]},
        {"bbox": [0, 0, 5, 5], "image_id": 2, "category_id": 9}, images=3,
    )  # fmt: skip
    files = {f"{i}.jpg": jpeg(seed=i) for i in (1, 2, 3)} | {"a.json": document}
    found = read_annotations(str(write(tmp_path, files)))
    assert found.labels == ("cat", "dog")
    assert [len(found.boxes(f"{i}.jpg")) for i in (1, 2, 3)] == [1, 1, 0]
    assert found.known(["3.jpg"]).all()  # listed without annotation: nothing is there
    shape = found.masks(["1.jpg"], ["cat"], 40, geometry="resized", kind="segments")
    np.testing.assert_array_equal(shape, found.masks(["1.jpg"], ["cat"], 40, geometry="resized"))


def test_voc_boxes_and_class_masks(tmp_path: Path) -> None:
    values = np.zeros((30, 40))
    values[3:15, 4:20], values[15, 4:20], values[20:22, 30:35] = 8, 255, 12
    files = {
        "JPEGImages/1.jpg": jpeg(), "SegmentationClass/1.png": indexed(values),
        "Annotations/1.xml": voc(("cat", 5, 4, 20, 15), ("dog", 31, 21, 35, 22)),
    }  # fmt: skip
    found = read_annotations(str(write(tmp_path, files)))
    assert found.boxes(only(found)) == (*FIRST, Box("dog", 30.0, 20.0, 35.0, 22.0))
    seen = found.masks([only(found)], ["cat"], 40, geometry="resized", kind="segments")
    assert seen.sum() == pytest.approx((values == 8).sum() * 40 / 30)


@pytest.mark.parametrize("kind", ["values", "folders", "black and white"])
def test_masks_as_pictures(kind: str, tmp_path: Path) -> None:
    values = np.zeros((30, 40))
    values[3:15, 4:20] = 1
    files = {
        "values": {"masks/1.png": grey(values), "classes.txt": "background\ncat\n"},
        "folders": {"masks/cat/1.png": grey(values * 200), "masks/dog/1.png": grey(values * 130)},
        "black and white": {"segmentations/cat/1.png": grey(values)},
    }[kind]
    place = write(tmp_path / "m", files)
    photos = open_source(str(write(tmp_path / "p", {"1.jpg": jpeg()})))
    found = read_annotations(str(place), photos=photos)
    assert found.boxes("1.jpg")[0] == FIRST[0]
    assert len(found.boxes("1.jpg")) == (2 if kind == "folders" else 1)


def test_masks_in_class_folders_belong_to_the_photos_in_the_same_folders(tmp_path: Path) -> None:
    """As CUB has them, where names could be the same in two folders."""
    ones = np.ones((30, 40)) * 255
    place = write(tmp_path / "m", {f"segmentations/{c}/1.png": grey(ones) for c in ("cat", "dog")})
    photos = write(tmp_path / "p", {f"{c}/1.jpg": jpeg() for c in ("cat", "dog")})
    found = read_annotations(str(place), photos=open_source(str(photos)))
    assert {name: [b.label for b in p.boxes] for name, p in found.photos.items()} == {
        "cat/1.jpg": ["cat"], "dog/1.jpg": ["dog"],
    }  # fmt: skip


def test_boxes_are_scaled_to_photos_that_were_made_smaller(tmp_path: Path) -> None:
    files = {"1.jpg": jpeg(), "1.xml": voc(("cat", 9, 7, 40, 30), width=80, height=60)}
    found = read_annotations(str(write(tmp_path, files)))
    assert found.boxes("1.jpg") == FIRST


def test_turned_photos_are_measured_upright(tmp_path: Path) -> None:
    """A camera's photo that is stored lying and shown upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {"1.jpg": jpeg(30, 40, exif=exif.tobytes()), "1.xml": voc(("cat", 5, 4, 20, 15))}
    found = read_annotations(str(write(tmp_path, files)))
    assert found.photos["1.jpg"].size == (40, 30)


def test_boxes_that_lie_partly_outside_are_clipped(tmp_path: Path) -> None:
    files = {"1.jpg": jpeg(), "1.xml": voc(("cat", -10, 20, 12, 99))}
    found = read_annotations(str(write(tmp_path, files)))
    assert found.boxes("1.jpg") == (Box("cat", 0.0, 19.0, 12.0, 30.0),)
    assert not found.errors


def test_the_folders_decide_between_photos_of_one_name(tmp_path: Path) -> None:
    files = {
        "images/a/1.jpg": jpeg(), "images/b/1.jpg": jpeg(seed=1), "labels/b/1.txt": YOLO,
        "labels/1.txt": YOLO,
    }  # fmt: skip
    found = read_annotations(str(write(tmp_path, files)))
    assert list(found.photos) == ["images/b/1.jpg"]
    (problem,) = found.errors
    assert problem.where == "labels/1.txt"
    assert "may be about images/a/1.jpg or images/b/1.jpg" in problem.reason


def test_what_cannot_be_joined_names_both_sides(tmp_path: Path) -> None:
    labels = write(tmp_path / "l", {"labels/other.txt": YOLO})
    photos = open_source(str(write(tmp_path / "p", {"1.jpg": jpeg()})))
    with pytest.raises(InvalidInput, match=r"photos such as 'labels/other'.*names such as '1.jpg'"):
        read_annotations(str(labels), photos=photos)
    with pytest.raises(InvalidInput, match="no photos beside them"):
        read_annotations(str(labels))
    more = read_annotations(str(write(tmp_path / "l", {"labels/1.txt": YOLO})), photos=photos)
    assert more.unmatched == 1


def test_places_and_formats_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, {"1.jpg": jpeg(), "notes.md": "x"})
    with pytest.raises(InvalidInput, match="it does not exist"):
        read_annotations(str(tmp_path / "nothing"))
    with pytest.raises(InvalidInput, match="2 files but no boxes or masks"):
        read_annotations(str(tmp_path))
    with pytest.raises(UnknownName, match="Nearest known names: coco"):
        read_annotations(str(tmp_path), "cocoo")
    place = zipped(tmp_path / "s.zip", SETS["coco"])
    with pytest.raises(InvalidInput, match="has no folder 'inner'"):
        read_annotations(f"{place}/inner")
    with pytest.raises(InvalidInput, match="no file holds any"):
        read_annotations(str(tmp_path), "voc")


def test_a_json_file_beside_the_photos(tmp_path: Path) -> None:
    write(tmp_path, SETS["coco"])
    assert only(read_annotations(str(tmp_path / "instances.json"))) == "images/1.jpg"


def test_real_boxes_and_polygons(shared_data: Path) -> None:
    found = read_annotations(str(shared_data / "coco128_boxes.zip"))
    assert (len(found.photos), len(found.labels), len(found.errors)) == (256, 76, 0)
    assert sum(bool(photo.segments) for photo in found.photos.values()) == 198
    ids = list(found.photos)[:16]
    boxes, segments = (
        found.masks(ids, ["person"], 64, kind=kind) for kind in ("boxes", "segments")
    )
    both = boxes.any(axis=(1, 2, 3)) & segments.any(axis=(1, 2, 3))
    assert both.any()
    assert (boxes & segments)[both].sum() / segments[both].sum() > 0.95
