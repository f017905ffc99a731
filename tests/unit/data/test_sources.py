"""Folders, manifests and what `open_source` makes of a location."""

import csv
import pickle
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dncbm.data import folder
from dncbm.data.sources import ImageRecord, ImageSource, open_source
from dncbm.data.splits import assign_splits
from dncbm.errors import InvalidInput
from tests.unit.data.pictures import encode, noise, write_folder


def test_a_folder_per_class(tmp_path: Path) -> None:
    source = open_source(str(write_folder(tmp_path, {"cat": 2, "dog": 1})))
    assert isinstance(source, ImageSource)
    assert list(source.records) == [
        ImageRecord("cat/000.png", "cat/000.png", "cat", None),
        ImageRecord("cat/001.png", "cat/001.png", "cat", None),
        ImageRecord("dog/000.png", "dog/000.png", "dog", None),
    ]
    assert source.read(2) == (tmp_path / "dog" / "000.png").read_bytes()


def test_splits_and_wrapping_folders_are_recognised(tmp_path: Path) -> None:
    write_folder(tmp_path / "w" / "x", {"train/cat": 1, "val/cat/more": 1, "test2017/dog": 1})
    records = open_source(str(tmp_path)).records
    assert [(r.split, r.label) for r in records] == [
        ("test", "dog"), ("train", "cat"), ("validation", "cat"),
    ]  # fmt: skip


@pytest.mark.parametrize("wrapper", ["", "photos"])
def test_a_picture_beside_the_splits_does_not_turn_them_into_classes(
    tmp_path: Path, wrapper: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path / wrapper, {"": 1, "train/cat": 1, "test/cat": 1})
    records = open_source(str(tmp_path)).records
    assert [(r.split, r.label) for r in records] == [
        ("train", None), ("test", "cat"), ("train", "cat"),
    ]  # fmt: skip
    first = Path(wrapper, "000.png")
    assert f"1 of 3 pictures lie beside the folders and have no label, the first is {first}" in (
        caplog.text
    )
    splits = assign_splits([r.label for r in records], [r.split for r in records], seed=0)
    assert splits == [r.split for r in records]


def test_a_picture_beside_the_classes_has_none(tmp_path: Path) -> None:
    records = open_source(str(write_folder(tmp_path, {"": 1, "cat": 1, "dog/dev": 1}))).records
    assert [(r.split, r.label) for r in records] == [(None, None), (None, "cat"), (None, "dog")]


def test_a_flat_folder_has_no_labels_and_one_class_keeps_its_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "flat", {"": 2})
    write_folder(tmp_path / "one", {"cat": 2})
    assert {r.label for r in open_source(str(tmp_path / "flat")).records} == {None}
    assert {r.label for r in open_source(str(tmp_path / "one")).records} == {"cat"}


def test_hidden_and_other_files_are_skipped(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 1, ".cache/cat": 1, "__MACOSX/cat": 1})
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "cat" / "._000.png").write_bytes(b"x")
    assert [r.id for r in open_source(str(tmp_path)).records] == ["cat/000.png"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"pics": 1})
    write_folder(tmp_path / "data", {"cat": 1})
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere" / "pics")
    (tmp_path / "data" / "cat" / "loop").symlink_to(tmp_path / "data")
    assert [r.label for r in open_source(str(tmp_path / "data")).records].count("dog") == 1


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    a = open_source(str(write_folder(tmp_path / "a", {"cat": 2})))
    b = open_source(str(write_folder(tmp_path / "b", {"cat": 2})))
    assert a.fingerprint == b.fingerprint
    (tmp_path / "b" / "cat" / "000.png").write_bytes(encode(noise(99)))
    assert open_source(str(tmp_path / "b")).fingerprint != a.fingerprint


def test_fingerprint_of_many_files_reads_few_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path, {"cat": 30})
    opened: list[str] = []
    original = Path.open

    def noted(self: Path, *args: str, **options: str):  # type: ignore[no-untyped-def]
        opened.append(self.name)
        return original(self, *args, **options)

    monkeypatch.setattr(folder, "_MOST_HEADS", 7)
    monkeypatch.setattr(Path, "open", noted)
    before = open_source(str(root)).fingerprint
    assert opened == [f"{i:03d}.png" for i in range(0, 30, 5)]
    (root / "cat" / "003.png").write_bytes(b"of another size")
    assert open_source(str(root)).fingerprint != before


def test_sources_can_be_sent_to_workers(tmp_path: Path) -> None:
    source = open_source(str(write_folder(tmp_path, {"cat": 2})))
    again = pickle.loads(pickle.dumps(source))
    assert again.read(1) == source.read(1)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: (p / "a.txt").write_text("x")])
def test_folders_without_images_are_refused(tmp_path: Path, make) -> None:
    make(tmp_path)
    with pytest.raises(InvalidInput, match="No images in .*one folder per class"):
        open_source(str(tmp_path))


def test_a_missing_location_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist. Give a folder, a zip"):
        open_source(str(tmp_path / "nowhere"))


def test_a_file_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="unknown kind '.docx'"):
        open_source(str(tmp_path / "a.docx"))


def test_one_image_is_a_source(tmp_path: Path) -> None:
    assert len(open_source(str(write_folder(tmp_path, {"": 1}))).records) == 1


def _manifest(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> str:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize(("name", "delimiter"), [("m.csv", ","), ("m.tsv", "\t")])
def test_a_text_manifest(tmp_path: Path, name: str, delimiter: str) -> None:
    write_folder(tmp_path / "pics", {"": 2})
    rows = [
        {"path": "pics/000.png", "label": "cat", "split": "val"},
        {"path": str(tmp_path / "pics" / "001.png"), "label": "", "split": ""},
    ]
    source = open_source(_manifest(tmp_path / name, rows, delimiter))
    assert [(r.label, r.split) for r in source.records] == [("cat", "validation"), (None, None)]
    assert source.read(0) == (tmp_path / "pics" / "000.png").read_bytes()
    assert source.read(1) == (tmp_path / "pics" / "001.png").read_bytes()


def test_a_parquet_manifest_with_number_labels_and_ids(tmp_path: Path) -> None:
    write_folder(tmp_path, {"": 2})
    table = pa.table({"path": ["000.png", "001.png"], "label": [3, None], "id": ["x", "x"]})
    pq.write_table(table, tmp_path / "m.parquet")
    records = open_source(str(tmp_path / "m.parquet")).records
    assert [(r.id, r.label) for r in records] == [("x", "3"), ("x#2", None)]


def test_a_missing_file_of_a_manifest_is_told_when_read(tmp_path: Path) -> None:
    write_folder(tmp_path, {"": 1})
    source = open_source(_manifest(tmp_path / "m.csv", [{"path": "000.png"}, {"path": "gone.png"}]))
    assert source.read(0)
    with pytest.raises(InvalidInput, match=r"The file gone\.png does not exist"):
        source.read(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,cat\n", "has no column 'path'; its columns are file, label"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png,x\n,y\n", "row 2: the column 'path' is empty"),
        ("path,split\na.png,holdout\n", "unknown split 'holdout'"),
        ("", r"has no column 'path'; its columns are \(none\)"),
    ],
)
def test_bad_manifests_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        open_source(str(tmp_path / "m.csv"))


def test_binary_rubbish_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00path")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 rubbish")
    with pytest.raises(InvalidInput, match="not a UTF-8 CSV"):
        open_source(str(tmp_path / "m.csv"))
    with pytest.raises(InvalidInput, match="not a Parquet file"):
        open_source(str(tmp_path / "m.parquet"))


def test_the_real_photos(shared_data: Path) -> None:
    records = open_source(str(shared_data / "clothing.zip")).records
    assert len(records) == 3781
    assert len({r.label for r in records}) == 10
    assert set(Counter(r.split for r in records)) == {"train", "validation", "test"}
    coco = open_source(str(shared_data / "coco128_boxes.zip")).records
    assert Counter(r.split for r in coco) == {"train": 128, "validation": 128}
