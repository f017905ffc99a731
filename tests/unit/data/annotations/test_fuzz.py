"""Whatever stands in an annotation file: it is read, or it is listed."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dncbm.data.annotations import read_annotations
from dncbm.data.sources import open_source
from tests.unit.data.annotations.sets import coco, indexed, jpeg, voc, write

QUIET = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
GOOD = "0 0.5 0.5 0.2 0.2\n"
VALUES = np.zeros((30, 40))
VALUES[3:15, 4:20] = 1
FILES = {
    "voc": ("1.xml", voc(("cat", 5, 4, 20, 15)).encode(), {"2.xml": voc(("cat", 5, 4, 20, 15))}),
    "yolo": ("labels/1.txt", (GOOD + "0 .1 .1 .5 .5 .1 .5").encode(), {"labels/2.txt": GOOD}),
    "masks": ("masks/1.png", indexed(VALUES), {"masks/2.png": indexed(VALUES)}),
    "tiny-imagenet": ("a_boxes.txt", b"1.jpg\t1\t1\t5\t5\n", {"b_boxes.txt": "2.jpg 1 1 5 5"}),
}  # fmt: skip
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=6)
    | st.dictionaries(
        st.sampled_from(["bbox", "segmentation", "size", "counts", "category_id", "id"]), inner
    ),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write(tmp_path, {"1.jpg": jpeg(), "2.jpg": jpeg(seed=1)})


@pytest.mark.parametrize("form", sorted(FILES))
@QUIET
@given(data=st.data())
def test_damaged_files_are_read_or_listed(form: str, place: Path, data: st.DataObject) -> None:
    name, good, other = FILES[form]
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 20)))
    damaged = good[:start] + data.draw(st.binary(max_size=20)) + good[end:]
    write(place, {name: damaged, **other})
    photos = open_source(str(place))
    found = read_annotations(str(place), form, photos=photos)
    assert "2.jpg" in found.photos
    if "1.jpg" in found.photos:
        found.masks(["1.jpg"], found.labels, 8)


@QUIET
@given(item=st.dictionaries(
    st.sampled_from(["bbox", "segmentation", "category_id", "image_id", "iscrowd"]), junk
))  # fmt: skip
def test_any_json_is_read_or_listed(item: dict[str, object], place: Path) -> None:
    document = json.loads(coco({"image_id": 2, "bbox": [4, 3, 16, 12]}, images=2))
    document["annotations"].append({"image_id": 1, "category_id": 7} | item)
    write(place, {"instances.json": json.dumps(document)})
    found = read_annotations(str(place), "coco", photos=open_source(str(place)))
    assert found.photos or found.errors
    found.masks(["1.jpg", "2.jpg"], found.labels, 8)


@QUIET
@given(document=st.dictionaries(st.sampled_from(["images", "annotations", "categories"]), junk))
def test_any_document_is_read_or_told(document: dict[str, object], place: Path) -> None:
    good = json.loads(coco({"image_id": 2, "bbox": [4, 3, 16, 12]}, images=2))
    write(place, {
        "instances_a.json": json.dumps(document), "instances_b.json": json.dumps(good),
    })  # fmt: skip
    found = read_annotations(str(place), "coco", photos=open_source(str(place)))
    assert "2.jpg" in found.photos
