"""Waterbirds' CSV and manifests with groups."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dncbm.data.annotations import read_annotations
from dncbm.data.sources import ImageRecord, groups_of, open_source
from dncbm.data.waterbirds import COLUMNS
from dncbm.errors import InvalidInput
from tests.unit.data.pictures import encode, noise

HEAD = ",".join(COLUMNS)
ROWS = (
    "1,001.Albatross/1.jpg,1,0,0,/f/forest/1.jpg", "2,002.Wren/2.jpg,0,1,1,/o/ocean/2.jpg",
    "3,002.Wren/3.jpg,0,2,0,/f/forest/3.jpg",
)  # fmt: skip


def waterbirds(root: Path, *rows: str, head: str = HEAD) -> Path:
    (root / "metadata.csv").write_text("\n".join([head, *rows]) + "\n")
    for row in ROWS:
        path = root / row.split(",")[1]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(noise(1), "JPEG"))
    return root


@pytest.mark.parametrize("name", ["", "metadata.csv"])
def test_the_metadata_of_waterbirds(name: str, tmp_path: Path) -> None:
    """Given as the folder or as the file."""
    source = open_source(str(waterbirds(tmp_path, *ROWS) / name))
    assert source.records[0] == ImageRecord(
        "001.Albatross/1.jpg", "001.Albatross/1.jpg", "waterbird", "train"
    )
    assert [record.split for record in source.records] == ["train", "validation", "test"]
    assert groups_of(source) == ["waterbird on land", "landbird on water", "landbird on land"]
    assert source.read(1) == (tmp_path / "002.Wren/2.jpg").read_bytes()


def test_boxes_and_masks_of_cub_join(tmp_path: Path) -> None:
    """CUB's own folder lies elsewhere and knows more photos."""
    photos, cub = tmp_path / "w", tmp_path / "cub"
    for folder in (photos, cub):
        folder.mkdir()
    source = open_source(str(waterbirds(photos, *ROWS)))
    (cub / "images.txt").write_text("5 001.Albatross/1.jpg\n6 001.Albatross/9.jpg\n")
    (cub / "bounding_boxes.txt").write_text("5 2.0 3.0 4.0 5.0\n6 1.0 1.0 1.0 1.0\n")
    boxes = read_annotations(str(cub), photos=source)
    assert boxes.unmatched == 1
    birds = boxes.relabelled({record.id: str(record.label) for record in source.records})
    assert [box.label for box in birds.boxes("001.Albatross/1.jpg")] == ["waterbird"]
    folder = cub / "segmentations" / "001.Albatross"
    folder.mkdir(parents=True)
    votes = np.zeros((20, 24), np.uint8)
    votes[2:6, 3:9], votes[6] = 204, 51  # most of those asked, and few of them
    (folder / "1.png").write_bytes(encode(Image.fromarray(votes)))
    masks = read_annotations(str(cub / "segmentations"), "masks", photos=source)
    (box,) = masks.boxes("001.Albatross/1.jpg")
    assert (box.left, box.top, box.right, box.bottom) == (3, 2, 9, 6)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (("1,a.jpg,2,0,0,x",), r"row 1: y is '2'; .* from 0 to 1"),
        ((ROWS[0], "1,a.jpg,0,3,0,x"), r"row 2: split is '3'; .* from 0 to 2"),
        (("1,a.jpg,0,0,-1,x",), "place is '-1'"), (("1,a.jpg,cat,0,0,x",), "y is 'cat'"),
        (("1,,0,0,0,x",), "'img_filename' is empty"), ((ROWS[0], ROWS[0]), "Albatross/1.jpg twice"),
        (("1,a.jpg,0",), "place is ''"), ((), "no row"),
    ],
)  # fmt: skip
def test_bad_rows_are_told(rows: tuple[str, ...], why: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=why):
        open_source(str(waterbirds(tmp_path, *rows)))


def test_manifests_may_have_groups(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label,group\na.png,cat,cat on sofa\nb.png,dog,\n")
    (tmp_path / "b.csv").write_text("path,label\na.png,cat\nb.png,dog\n")
    with_groups, without = (open_source(str(tmp_path / name)) for name in ("a.csv", "b.csv"))
    assert groups_of(with_groups) == ["cat on sofa", None]
    assert groups_of(without) is None
    assert with_groups.fingerprint != without.fingerprint


def test_another_csv_beside_photos_is_not_taken_for_waterbirds(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(encode(noise(1)))
    (tmp_path / "metadata.csv").write_bytes(b"\xff\xfe file_name,text")
    assert [record.label for record in open_source(str(tmp_path)).records] == ["cat"]
