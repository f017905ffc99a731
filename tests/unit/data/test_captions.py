"""Captions from every place where they usually lie."""

import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dncbm.data.captions import read_captions
from dncbm.data.sources import open_source
from dncbm.errors import InvalidInput
from tests.unit.data.pictures import encode, noise

LIST = 'image,caption\na.jpg,A cat .\na.jpg,"Two cats, one hat"\nb.jpg,\n'
WANTED = [("A cat .", "Two cats, one hat"), ()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (root / name).write_bytes(encode(noise(1), "JPEG"))
    return root


def _read(path: Path, listed: Path | None = None) -> list[tuple[str, ...]]:
    source = open_source(str(path))
    found = read_captions(str(path), source, None if listed is None else str(listed))
    assert len(found.fingerprint) == 64
    return list(found.texts)


@pytest.mark.parametrize(
    "text",
    [LIST, LIST.replace(",", "\t", 1).replace("jpg,", "jpg\t").replace(",\n", "\t\n"),
     "a.jpg#0\tA cat .\na.jpg#1\tTwo cats, one hat\n"],
)  # fmt: skip
def test_lists(folder: Path, tmp_path: Path, text: str) -> None:
    """By itself in the folder, or named."""
    (tmp_path / "list.txt").write_text(text)
    assert _read(folder, tmp_path / "list.txt") == WANTED
    (folder / "captions.txt").write_text(text)
    assert _read(folder) == WANTED


def test_a_zip_has_a_list_or_texts(folder: Path, tmp_path: Path) -> None:
    for names, wanted in (
        ({"captions.txt": LIST}, WANTED),
        ({"images/a.txt": "A cat .", "images/b.txt": " "}, [("A cat .",), ()]),
    ):
        path = tmp_path / "photos.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("a.jpg", "b.jpg"):
                archive.write(folder / name, f"images/{name}")
            for name, text in names.items():
                archive.writestr(name, text)
        assert _read(path) == wanted


@pytest.mark.parametrize("shards", [1, 2])
def test_a_tar_has_texts(folder: Path, tmp_path: Path, shards: int) -> None:
    root = tmp_path / "shards"
    root.mkdir()
    for shard in range(shards):
        with tarfile.open(root / f"{shard}.tar", "w") as archive:
            for name in ("a.jpg", "b.jpg"):
                archive.add(folder / name, f"./{name}")
            text = f"A cat of {shard} .".encode() + b" long" * 100
            member = tarfile.TarInfo("./a.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    found = _read(root)
    assert [len(texts) for texts in found] == [1, 0] * shards
    assert [texts[0][:10] for texts in found if texts] == [f"A cat of {s}" for s in range(shards)]
    assert len(found[0][0]) > 500


def test_a_manifest_has_a_column(folder: Path) -> None:
    rows = {"path": ["b.jpg", "a.jpg"], "caption": ["A dog", None]}
    pq.write_table(pa.table(rows), folder / "list.parquet")
    assert _read(folder / "list.parquet") == [("A dog",), ()]
    (folder / "list.csv").write_text("path,caption\nb.jpg,A dog\na.jpg,\n")
    assert _read(folder / "list.csv") == [("A dog",), ()]


def test_texts_beside_files(folder: Path) -> None:
    (folder / "b.txt").write_text("A dog\n")
    assert _read(folder) == [(), ("A dog",)]


def test_what_has_no_captions_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="None of the 2 photos"):
        _read(folder)
    with pytest.raises(InvalidInput, match="do not exist"):
        _read(folder, tmp_path / "none.txt")
    (tmp_path / "list.csv").write_text("name,words\na,b\n")
    with pytest.raises(InvalidInput, match="columns name, words"):
        _read(folder, tmp_path / "list.csv")
    (tmp_path / "list.csv").write_bytes(b"image,caption\na.jpg,\xff\n")
    with pytest.raises(InvalidInput, match="UTF-8"):
        _read(folder, tmp_path / "list.csv")
    (folder / "list.csv").write_text("path\na.jpg\n")
    with pytest.raises(InvalidInput, match="no column 'caption'"):
        _read(folder / "list.csv")
    (folder / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match="damaged"):
        _read(folder, folder / "list.parquet")


def test_the_readers_know_real_files(shared_data: Path) -> None:
    found = _read(shared_data / "flickr8k_1000.zip")
    assert len(found) == 1000
    assert {len(texts) for texts in found} == {5}
    found = _read(shared_data / "cc12m_test_32_webdataset.tar")
    assert [len(texts) for texts in found] == [1] * 32
