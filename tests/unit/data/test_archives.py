"""Zips and tars are read in place; unsafe, locked and damaged ones are refused."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from dncbm.data.sources import open_source
from dncbm.errors import InvalidInput
from tests.unit.data.pictures import encode, noise, write_folder


def _zip(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return str(path)


def _tar(path: Path, entries: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def _pictures(*names: str) -> dict[str, bytes]:
    return {name: encode(noise(i)) for i, name in enumerate(names)}


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_members_keep_bytes_labels_and_splits(tmp_path: Path, how: int) -> None:
    entries = _pictures("w/train/cat/a.png", "w/test/dog/b.png", "__MACOSX/w/._a.png")
    source = open_source(_zip(tmp_path / "a.zip", entries | {"README.md": b"hi"}, how))
    assert [(r.split, r.label) for r in source.records] == [("test", "dog"), ("train", "cat")]
    copy = pickle.loads(pickle.dumps(source))
    for index, record in enumerate(source.records):
        assert source.read(index) == entries[record.id] == copy.read(index)


@pytest.mark.parametrize(
    "name", ["../up.png", "a/../../up.png", "/etc/up.png", "..\\up.png", "C:/up.png"]
)
def test_zip_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="unsafe name .* points outside the archive"):
        open_source(_zip(tmp_path / "a.zip", _pictures("ok.png", name)))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = Path(_zip(tmp_path / "a.zip", _pictures("ok.png")))
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(mark) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"is encrypted \('ok.png' needs a password\)"):
        open_source(str(path))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and then nothing", b"plain text"])
def test_a_corrupt_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InvalidInput, match="not a zip file or is damaged"):
        open_source(str(tmp_path / "a.zip"))


def test_a_zip_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No images in .*1 entries"):
        open_source(_zip(tmp_path / "a.zip", {"a.txt": b"x"}))


def test_a_damaged_zip_entry_is_told_when_read(tmp_path: Path) -> None:
    entries = _pictures("a.png", "b.png")
    path = Path(_zip(tmp_path / "a.zip", entries))
    data = bytearray(path.read_bytes())
    data[data.find(entries["a.png"]) + 100] ^= 255
    path.write_bytes(data)
    source = open_source(str(path))
    assert source.read(1) == entries["b.png"]
    with pytest.raises(InvalidInput, match=r"entry a\.png .* is damaged"):
        source.read(0)


def test_a_damaged_lzma_entry_is_told_when_read(tmp_path: Path) -> None:
    path = Path(_zip(tmp_path / "a.zip", {"a.png": bytes(5000)}, zipfile.ZIP_LZMA))
    data = bytearray(path.read_bytes())
    start = data.find(b"a.png") + len("a.png")
    data[start + 4 : start + 9] = b"\xff" * 5  # the filter's properties
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"entry a\.png .* is damaged"):
        open_source(str(path)).read(0)


def test_a_huge_zip_entry_is_cut_not_unpacked(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"a.png": bytes(30 << 20)}, zipfile.ZIP_DEFLATED)
    assert len(open_source(path).read(0)) == (20 << 20) + 1


def test_webdataset_labels_come_from_cls_and_json(tmp_path: Path) -> None:
    entries = _pictures("000.png", "001.png", "002.png")
    entries |= {
        "000.cls": b"cat\n",
        "001.json": json.dumps({"label": 7}).encode(),
        "002.json": b"{",
    }
    source = open_source(_tar(tmp_path / "a.tar", entries))
    assert [r.label for r in source.records] == ["cat", "7", None]
    assert [source.read(i) for i in range(3)] == [entries[f"00{i}.png"] for i in range(3)]


@pytest.mark.parametrize("order", [("0.json", "0.cls"), ("0.cls", "0.json")])
def test_cls_counts_more_than_json(tmp_path: Path, order: tuple[str, str]) -> None:
    said = {"0.cls": b"cat", "0.json": b'{"label": "dog"}'}
    entries = {name: said[name] for name in order} | _pictures("0.png") | {"0.txt": b"fox"}
    assert [r.label for r in open_source(_tar(tmp_path / "a.tar", entries)).records] == ["cat"]


def test_scanning_a_tar_keeps_neither_members_nor_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    original = tarfile.TarFile.next

    def noted(self: tarfile.TarFile) -> tarfile.TarInfo | None:
        kept.append(len(self.members))
        return original(self)

    names = [f"{i}.png" for i in range(30)]
    texts = {f"{i}.txt": b"x" * 10_000 for i in range(30)}
    path = _tar(tmp_path / "a.tar", _pictures(*names) | texts)
    monkeypatch.setattr(tarfile.TarFile, "next", noted)
    source = open_source(path)
    assert len(kept) > 60
    assert max(kept) == 1
    assert {len(r.label or "") for r in source.records} == {256}


def test_texts_are_labels_only_where_they_repeat(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(6)]
    words = {f"{i}.txt": b"cat" if i % 2 else b"dog" for i in range(6)}
    prose = {f"{i}.txt": b"a photo number %d" % i for i in range(6)}
    words_source = open_source(_tar(tmp_path / "a.tar", _pictures(*names) | words))
    prose_source = open_source(_tar(tmp_path / "b.tar", _pictures(*names) | prose))
    assert [r.label for r in words_source.records] == ["dog", "cat"] * 3
    assert {r.label for r in prose_source.records} == {None}


def test_tar_folders_mean_classes_and_a_folder_of_tars_is_one_source(tmp_path: Path) -> None:
    first = _pictures("./train/cat/a.png", "./train/dog/b.png")
    second = {"train/cat/a.png": encode(noise(9))}
    _tar(tmp_path / "s0.tar", first)
    _tar(tmp_path / "s1.tar", second)
    source = open_source(str(tmp_path))
    assert [r.id for r in source.records] == [
        "s0/train/cat/a.png", "s0/train/dog/b.png", "s1/train/cat/a.png",
    ]  # fmt: skip
    assert [(r.split, r.label) for r in source.records] == [
        ("train", "cat"), ("train", "dog"), ("train", "cat"),
    ]  # fmt: skip
    assert source.read(2) == second["train/cat/a.png"]


def test_a_stray_tar_does_not_hide_the_images_beside_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, {"cat": 2, "dog": 1})
    _tar(tmp_path / "backup.tar", _pictures("x.png"))
    source = open_source(str(tmp_path))
    assert [r.label for r in source.records] == ["cat", "cat", "dog"]
    assert "the images are read, backup.tar is not" in caplog.text


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2"])
def test_a_compressed_tar_says_how_to_go_on(tmp_path: Path, mode: str) -> None:
    with pytest.raises(InvalidInput, match="Unpack a compressed one first"):
        open_source(_tar(tmp_path / "a.tar", _pictures("a.png"), mode))


def test_a_corrupt_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"rubbish" * 1000)
    with pytest.raises(InvalidInput, match="not an uncompressed tar file or is damaged"):
        open_source(str(tmp_path / "a.tar"))


def test_a_tar_with_an_unsafe_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unsafe name '../a.png'"):
        open_source(_tar(tmp_path / "a.tar", _pictures("../a.png")))


def test_a_tar_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No images in"):
        open_source(_tar(tmp_path / "a.tar", {"a.txt": b"x"}))


def test_a_tar_cut_after_it_was_opened_is_told_when_read(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", _pictures("a.png"))
    source = open_source(path)
    Path(path).write_bytes(Path(path).read_bytes()[:700])
    with pytest.raises(InvalidInput, match="is cut short"):
        source.read(0)


def test_the_real_webdataset(shared_data: Path) -> None:
    source = open_source(str(shared_data / "cc12m_test_32_webdataset.tar"))
    assert len(source.records) == 32
    assert {r.label for r in source.records} == {None}
    assert source.read(0)[:2] == b"\xff\xd8"
