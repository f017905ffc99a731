"""Bad and hostile annotations: each is listed with its reason, and the others are read."""

import json
from pathlib import Path

import numpy as np
import pytest

from dncbm.data.annotations import entries as limits
from dncbm.data.annotations import read_annotations
from dncbm.data.sources import open_source
from dncbm.errors import InvalidInput
from tests.unit.data.annotations.sets import coco, grey, indexed, jpeg, voc, write, zipped
from tests.unit.data.pictures import encode, noise

LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><annotation><object><name>&i;</name></object></annotation>"
)
OUTSIDE = (
    '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><annotation><object><name>&a;</name>'
    "</object></annotation>"
)
BAD_XML = {
    "truncated": (voc(("cat", 5, 4, 20, 15))[:-30], "not XML: unclosed token"),
    "empty": ("", "not XML: no element found"),
    "text": ("0 1 2 3", "not XML: syntax error"),
    "bytes": (b"\xff\xfe\x00\x01<a>", "not XML"),
    "encoding": ('<?xml version="1.0" encoding="klingon"?><a/>', "not XML: unknown encoding"),
    "entity bomb": (LAUGHS, "declares a document type"),
    "outer entity": (OUTSIDE, "declares a document type"),
    "undefined entity": ("<annotation>&a;</annotation>", "not XML: undefined entity"),
    "deep": ("<a>" * 100_000, "more than 16 deep"),
    "many objects": (voc(*[("cat", 5, 4, 20, 15)] * 10_001), "10,001 objects of one photo"),
    "no name": (voc((" ", 5, 4, 20, 15)), "an object has no name"),
    "no box": ("<a><object><name>cat</name></object></a>", "has no bndbox"),
    "no corner": (
        "<a><object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></a>",
        "ymin of 'cat' is NoneType, which is not a number",
    ),
    "words": (voc(("cat", "left", 4, 20, 15)), "xmin of 'cat' is 'left', which is not a number"),
    "nan": (voc(("cat", "nan", 4, 20, 15)), "is 'nan', which is not a place in a photo"),
    "infinite": (voc(("cat", 5, 4, "1e999", 15)), "'1e999', which is not a place in a photo"),
    "huge": (voc(("cat", 5, 4, "9" * 400, 15)), "which is not a place in a photo"),
    "outside": (voc(("cat", 50, 4, 60, 15)), "lies outside the photo of 40 x 30 pixels"),
    "no area": (voc(("cat", 5, 4, 4, 15)), "has no area"),
    "turned": (voc(("cat", 20, 4, 5, 15)), "has no area"),
    "one of two": (voc(("cat", 5, 4, 20, 15), ("dog", 90, 4, 99, 15)), "of 'dog' lies outside"),
    "other shape": (
        voc(("cat", 5, 4, 20, 15), width=30, height=40), "is for 30 x 40 pixels, the photo has 40",
    ),
    "negative size": (voc(("cat", 5, 4, 20, 15), width=-40), "a size of -40 x 30 pixels"),
    "broken size": (voc(("cat", 5, 4, 20, 15), width=4.5), "width is '4.5', which is not a whole"),
}  # fmt: skip


def problem(root: Path, files: dict[str, str | bytes], form: str) -> tuple[str, str]:
    """The only problem of a set in which photo 2 is fine and nothing else is usable."""
    write(root, {"1.jpg": jpeg(), "2.jpg": jpeg(seed=1), **files})
    found = read_annotations(str(root), form)
    assert list(found.photos) == ["2.jpg"]
    (only,) = found.errors
    return only.where, only.reason


@pytest.mark.parametrize("case", BAD_XML)
def test_bad_xml_is_listed(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, why = BAD_XML[case]
    where, reason = problem(tmp_path, {"1.xml": data, "2.xml": voc(("cat", 5, 4, 20, 15))}, "voc")
    assert where == "1.xml"
    assert why in reason
    assert len(reason) < 200
    assert "1 annotations cannot be used" in caplog.text


BAD_ITEMS = {
    "no box": ({}, "bbox of 'cat' is not a list of 4 numbers"),
    "three": ({"bbox": [1, 2, 3]}, "bbox of 'cat' is not a list of 4 numbers"),
    "text": ({"bbox": "1234"}, "bbox of 'cat' is not a list of 4 numbers"),
    "nested": ({"bbox": [[1], 2, 3, 4]}, "bbox of 'cat' is list, which is not a number"),
    "true": ({"bbox": [True, 2, 3, 4]}, "bbox of 'cat' is True, which is not a number"),
    "negative": ({"bbox": [4, 3, -16, 12]}, "has no area"),
    "long number": ({"bbox": [4, 3, 10**400, 12]}, "bbox of 'cat' is int, which is not a number"),
    "category": ({"bbox": [4, 3, 1, 1], "category_id": 99}, "category 99 is not among"),
    "categories": ({"bbox": [4, 3, 1, 1], "category_id": [7]}, "category (no category_id) is not"),
    "short polygon": ({"segmentation": [[1, 2, 3, 4]]}, "not a list of x, y pairs"),
    "odd polygon": ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "not a list of x, y pairs"),
    "flat polygon": ({"segmentation": [[1, 1, 5, 5, 9, 9]]}, "polygon of 'cat' has no area"),
    "polygon outside": ({"segmentation": [[51, 1, 55, 5, 51, 9]]}, "lies outside the photo"),
    "polygon of words": ({"segmentation": [["a"] * 6]}, "a corner of a polygon is 'a'"),
    "number": ({"segmentation": 3}, "neither polygons nor run lengths"),
    "runs without size": ({"segmentation": {"counts": [1]}}, "need a size as [height, width]"),
    "runs of another size": (
        {"segmentation": {"size": [3, 3], "counts": [9]}}, "image is stated to have 40 x 30",
    ),
    "runs too short": ({"segmentation": {"size": [30, 40], "counts": [9]}}, "do not add up"),
    "negative runs": (
        {"segmentation": {"size": [30, 40], "counts": [-5, 1205]}}, "do not add up",
    ),
    "huge runs": ({"segmentation": {"size": [30, 40], "counts": [10**9, 10**9]}}, "do not add up"),
    "no runs": ({"segmentation": {"size": [30, 40], "counts": {}}}, "neither a list nor text"),
    "packed damage": (
        {"segmentation": {"size": [30, 40], "counts": "z\u00e9"}}, "packed run lengths are damaged",
    ),
    "packed without end": (
        {"segmentation": {"size": [30, 40], "counts": "o" * 99}}, "packed run lengths are damaged",
    ),
    "empty runs": ({"segmentation": {"size": [30, 40], "counts": [1200]}}, "the mask is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_bad_items_of_coco_are_listed(case: str, tmp_path: Path) -> None:
    item, why = BAD_ITEMS[case]
    document = coco(item, {"image_id": 2, "bbox": [4, 3, 16, 12]}, images=2)
    where, reason = problem(tmp_path, {"instances.json": document}, "coco")
    assert where == "instances.json, 1.jpg"
    assert why in reason


def test_huge_run_lengths_take_no_memory(tmp_path: Path) -> None:
    """A size that no photo has is refused before anything is made of it."""
    item = {"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}
    document = json.loads(coco(item, {"image_id": 2, "bbox": [4, 3, 16, 12]}, images=2))
    del document["images"][0]["width"]
    files = {"instances.json": json.dumps(document)}
    assert "1000000 x 1000000 pixels" in problem(tmp_path, files, "coco")[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"), ("[]", "not an object with images"), ("3", "not an object"),
        ("[" * 200_000, "not JSON"), ('{"images": NaN}', "not JSON: NaN is no number"),
        ("{}", "no list of objects 'images'"), ('{"images": [3]}', "no list of objects 'images'"),
        ('{"images": [], "annotations": {}}', "no list of objects 'annotations'"),
        ('{"images": [], "annotations": [], "categories": "x"}', "no list of objects 'categories'"),
        (b"\xff\xff", "not UTF-8"),
    ],
)  # fmt: skip
def test_documents_that_are_not_coco_are_told(text: str | bytes, why: str, tmp_path: Path) -> None:
    write(tmp_path, {"1.jpg": jpeg(), "instances.json": text})
    with pytest.raises(InvalidInput, match=rf"None of the 0 annotations .*{why}"):
        read_annotations(str(tmp_path))


def test_strays_of_coco_are_listed(tmp_path: Path) -> None:
    document = json.loads(coco({"bbox": [4, 3, 16, 12]}, {"image_id": 5}, {"image_id": None}))
    document["images"] += [{"id": 3}, {"id": 4, "file_name": ["x"]}]
    write(tmp_path, {"1.jpg": jpeg(), "instances.json": json.dumps(document)})
    found = read_annotations(str(tmp_path))
    assert [(p.where.split(", ")[1], p.reason[:29]) for p in found.errors] == [
        ("annotation 1", "it is about the image 5, whic"),
        ("annotation 2", "it is about the image (no ima"),
        ("image 1", "it has no file_name"), ("image 2", "it has no file_name"),
    ]  # fmt: skip


BAD_LINES = {
    "three numbers": ("0 0.5 0.5", "3 numbers; the rule is"),
    "confidence": ("0 0.5 0.5 0.2 0.2 0.9", "6 numbers; the rule is"),
    "words": ("cat 0.5 0.5 0.2 0.2", "the class is 'cat', which is not a whole number"),
    "negative class": ("-1 0.5 0.5 0.2 0.2", "the class is '-1'"),
    "long class": (f"{'9' * 5000} 0.5 0.5 0.2 0.2", "which is not a whole number"),
    "unknown class": ("7 0.5 0.5 0.2 0.2", "the class 7 is not among the 2 names"),
    "nan": ("0 nan 0.5 0.2 0.2", "a share is 'nan'"),
    "text": ("0 a 0.5 0.2 0.2", "a share is 'a', which is not a number"),
    "pixels": ("0 200 100 20 20", "lies outside"),
    "no area": ("0 0.5 0.5 0 0.2", "has no area"),
    "negative size": ("0 0.5 0.5 -0.2 0.2", "has no area"),
    "second line": ("0 0.5 0.5 0.2 0.2\n0 x", "line 2: a share is 'x'"),
    "many lines": ("\n" * 10_001, "10,001 lines of one photo"),
    "not text": (b"\xff\xff", "not UTF-8"),
    "null": ("0 0.5 0.5 0.2 0.2\x00", "which is not a number"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_lines_of_yolo_are_listed(case: str, tmp_path: Path) -> None:
    text, why = BAD_LINES[case]
    files = {"1.txt": text, "2.txt": "1 0.5 0.5 0.2 0.2", "classes.txt": "cat\ndog\n"}
    where, reason = problem(tmp_path, files, "yolo")
    assert where == "1.txt"
    assert why in reason
    assert len(reason) < 200


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("names: [a", "is not YAML"), ("names: {a: b}", "names must be a list, or numbers"),
        ("names: {[1]: b}", "is not YAML|names must be"), ("a" * 70_000, "more than 65,536 bytes"),
        ("[" * 2_000, "is not YAML"), ("!!python/object:os.system {}", "is not YAML"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_read_are_told(names: str, why: str, tmp_path: Path) -> None:
    write(tmp_path, {"1.jpg": jpeg(), "labels/1.txt": "0 0.5 0.5 0.2 0.2", "data.yaml": names})
    with pytest.raises(InvalidInput, match=why):
        read_annotations(str(tmp_path))


def _mask(value: int) -> np.ndarray:
    values = np.zeros((30, 40))
    values[3:15, 4:20] = value
    return values


BAD_MASKS = {
    "other size": (grey(np.ones((40, 30))), "the mask has 30 x 40 pixels, the photo 40 x 30"),
    "empty": (indexed(_mask(0)), "the mask is empty"),
    "only void": (indexed(_mask(255)), "the mask is empty"),
    "unknown class": (indexed(_mask(9)), "the mask has the class 9, which has no name"),
    "colours": (encode(noise(0, 40, 30)), "a picture of kind RGB"),
    "truncated": (indexed(_mask(1))[:-40], "truncated or damaged"),
    "no picture": (b"x" * 99, "Not an image that can be read"),
    "nothing": (b"", "The image is empty"),
    "a photo": (jpeg(), "truncated or damaged"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_masks_are_listed(case: str, tmp_path: Path) -> None:
    data, why = BAD_MASKS[case]
    files = {"masks/1.png": data, "masks/2.png": indexed(_mask(1)), "classes.txt": "none\ncat\n"}
    where, reason = problem(tmp_path, files, "masks")
    assert where == "masks/1.png"
    assert why in reason


def test_bad_lists_are_listed(tmp_path: Path) -> None:
    files = {"cat_boxes.txt": "2.jpg 1 1 5 5\n1.jpg 1 2 3\n", "val_annotations.txt": b"\xff"}
    write(tmp_path, {"images/1.jpg": jpeg(), "images/2.jpg": jpeg(seed=1), **files})
    found = read_annotations(str(tmp_path))
    assert list(found.photos) == ["images/2.jpg"]
    assert [problem.where for problem in found.errors] == [
        "val_annotations.txt", "cat_boxes.txt, line 2",
    ]  # fmt: skip


def test_cub_without_a_box_is_listed(tmp_path: Path) -> None:
    files = {"images.txt": "1 a/1.jpg\n2 a/2.jpg\n", "bounding_boxes.txt": "2 1 1 5 5\n"}
    write(tmp_path, {"images/a/1.jpg": jpeg(), "images/a/2.jpg": jpeg(seed=1), **files})
    (only,) = read_annotations(str(tmp_path)).errors
    assert (only.where, only.reason[:6]) == ("bounding_boxes.txt, photo 1", "no box")


def test_a_photo_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    files = {"1.jpg": b"x", "2.jpg": jpeg(), "1.txt": "0 0.5 0.5 0.2 0.2"}
    write(tmp_path, files | {"2.txt": "0 0.5 0.5 0.2 0.2"})
    (only,) = read_annotations(str(tmp_path)).errors
    assert only.where == "1.jpg"
    assert "Not an image" in only.reason


def test_elements_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dncbm.data.annotations.xml_tree._MAX_ELEMENTS", 100)
    files = {"1.xml": f"<a>{'<b/>' * 101}</a>", "2.xml": voc(("cat", 5, 4, 20, 15))}
    assert "or more than 100" in problem(tmp_path, files, "voc")[1]


def test_long_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dncbm.data.annotations.yolo.MAX_TEXT", 100)
    files = {"1.txt": "0 0.5 0.5 0.2 0.2\n" * 9, "2.txt": "0 0.5 0.5 0.2 0.2"}
    assert "more than 100 bytes" in problem(tmp_path, files, "yolo")[1]
    assert limits.MAX_TEXT > 100


def test_damaged_and_unsafe_zips(tmp_path: Path) -> None:
    good = {"1.jpg": jpeg(), "2.jpg": jpeg(), "labels/1.txt": "0 .5 .5 .2 .2" * 9}
    path = zipped(tmp_path / "a.zip", good | {"labels/2.txt": "0 0.5 0.5 0.2 0.2"})
    data = path.read_bytes()
    place = data.index(b"0 .5 .5 .2 .2")
    path.write_bytes(data[:place] + b"X" + data[place + 1 :])
    (only,) = read_annotations(str(path)).errors
    assert "the file cannot be read: Bad CRC-32" in only.reason
    path.write_bytes(data[:-60])
    with pytest.raises(InvalidInput):
        read_annotations(str(path))
    photos = open_source(str(write(tmp_path / "p", {"1.jpg": jpeg()})))
    unsafe = zipped(tmp_path / "b.zip", {"../labels/1.txt": "0 0.5 0.5 0.2 0.2"})
    with pytest.raises(InvalidInput, match="points outside the archive"):
        read_annotations(str(unsafe), photos=photos)


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path) -> None:
    write(tmp_path, {"1.jpg": jpeg(), "1.xml": voc(("cat", 90, 4, 99, 15))})
    with pytest.raises(InvalidInput, match=r"None of the 1 annot.*1\.xml: the box .* outside"):
        read_annotations(str(tmp_path))
