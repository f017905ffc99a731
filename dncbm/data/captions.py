"""Captions of photos: which texts somebody wrote about each, from where they usually lie."""

import csv
import io
import logging
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from dncbm.artifacts import fingerprint
from dncbm.data.archives import TarSource, ZipSource
from dncbm.data.folder import FileSource
from dncbm.data.sources import ImageRecord, ImageSource
from dncbm.errors import InvalidInput

_log = logging.getLogger(__name__)
NAMES = ("captions.txt", "captions.csv", "captions.tsv")
"""Lists that are found by themselves, in a zip or beside a folder's photos."""
_IMAGE_KEYS, _CAPTION_KEYS = ("path", "image", "id", "file"), ("caption", "text")
_MOST = 1 << 14
"""Bytes of a caption that are read."""
_MOST_LIST = 1 << 30
_FORMS = (
    "Give a list with the columns image and caption (CSV, TSV, Parquet, or captions.txt inside a "
    "zip or folder), a .txt of the same name beside each photo, or a WebDataset tar."
)


@dataclass(frozen=True, slots=True)
class CaptionedPhotos:
    """For each record of a source its captions, none or more."""

    texts: Sequence[tuple[str, ...]]
    fingerprint: str
    """Of all texts."""


def read_captions(location: str, source: ImageSource, listed: str | None = None) -> CaptionedPhotos:
    """The captions of a source's photos.

    Args:
        location: what the source was opened from.
        source: its photos.
        listed: a list of captions; None: where the source itself has them (a manifest's column
            `caption`; `captions.txt` in a zip or folder; `.txt` beside each photo, in a folder, zip
            or tar).

    Raises:
        InvalidInput: a list that cannot be read, or no photo with a caption.
    """
    found = _by_name(_listed(Path(listed)), source) if listed else _beside(Path(location), source)
    have = sum(map(bool, found))
    if have == 0:
        raise InvalidInput(
            f"None of the {len(found)} photos of {location} has a caption"
            f"{f' in {listed}' if listed else ''}. {_FORMS}"
        )
    if have < len(found):
        _log.warning("%d of %d photos have no caption.", len(found) - have, len(found))
    return CaptionedPhotos(found, fingerprint([list(texts) for texts in found]))


Pairs = Iterable[tuple[str, str]]
"""Names of photos and a caption each."""


def _beside(path: Path, source: ImageSource) -> list[tuple[str, ...]]:
    path = path.expanduser()
    if isinstance(source, TarSource):
        return _by_stem(_of_tars(source.shards), source.records)
    if isinstance(source, ZipSource):
        return _of_zip(path, source)
    if isinstance(source, FileSource) and path.is_file():
        return _of_manifest(path, source.records)
    if isinstance(source, FileSource):
        lists = [path / name for name in NAMES if (path / name).is_file()]
        if lists:
            return _by_name(_listed(lists[0]), source)
        return [_text_file(file.with_suffix(".txt")) for file in source.files]
    raise InvalidInput(f"{path} brings no captions. {_FORMS}")


def _of_zip(path: Path, source: ZipSource) -> list[tuple[str, ...]]:
    with zipfile.ZipFile(path) as archive:
        inside = archive.namelist()
        lists = [name for name in inside if PurePosixPath(name).name in NAMES]
        if lists:
            with archive.open(lists[0]) as stream:
                text = _decoded(stream.read(_MOST_LIST), lists[0])
            return _by_name(_pairs(text, lists[0]), source)
        texts = {}
        for name in inside:
            if name.endswith(".txt"):
                with archive.open(name) as stream:
                    texts[_stem(name)] = stream.read(_MOST).decode("utf-8", "replace").strip()
    return _by_stem(texts, source.records)


def _of_tars(shards: Sequence[Path]) -> dict[str, str]:
    """Texts by the name of their sample, led by the shard's where there are several."""
    texts = {}
    for shard in shards:
        prefix = f"{shard.stem}/" if len(shards) > 1 else ""
        with tarfile.open(shard, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]
                name = member.name.removeprefix("./")
                if member.isfile() and name.endswith(".txt"):
                    stream = archive.extractfile(member)
                    text = stream.read(_MOST) if stream else b""
                    texts[prefix + _stem(name)] = text.decode("utf-8", "replace").strip()
    return texts


def _of_manifest(path: Path, records: Sequence[ImageRecord]) -> list[tuple[str, ...]]:
    """The column `caption`, row by row."""
    rows = _rows(path)
    key = next((key for key in _CAPTION_KEYS if rows and key in rows[0]), None)
    if key is None:
        raise InvalidInput(f"{path} has no column 'caption'. {_FORMS}")
    return [_one(row.get(key)) for row in rows][: len(records)]


def _rows(path: Path) -> list[Mapping[str, str | None]]:
    if path.suffix.lower() == ".parquet":
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"{path} is not a Parquet file or is damaged: {error}.") from error
        return [
            {key: None if value is None else str(value) for key, value in row.items()}
            for row in table.to_pylist()
        ]
    try:
        text = _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise InvalidInput(f"The captions {path} cannot be read: {error.strerror}.") from error
    return _table(text, str(path))


def _listed(path: Path) -> Pairs:
    """Pairs of a list on disk."""
    path = path.expanduser()
    if not path.is_file():
        raise InvalidInput(f"The captions {path} do not exist. {_FORMS}")
    if path.suffix.lower() == ".parquet":
        return _named(_rows(path), str(path))
    return _pairs(_decoded(path.read_bytes(), str(path)), str(path))


def _pairs(text: str, name: str) -> Pairs:
    """Of a list with a header, or of Flickr's older form: `photo.jpg#0<tab>caption`."""
    head = text.split("\n", 1)[0]
    if "\t" in head and "#" in head.split("\t")[0]:
        lines = [line.split("\t", 1) for line in text.splitlines() if "\t" in line]
        return [(photo.rsplit("#", 1)[0], caption.strip()) for photo, caption in lines]
    return _named(_table(text, name), name)


def _table(text: str, name: str) -> list[Mapping[str, str | None]]:
    try:
        return list(csv.DictReader(io.StringIO(text), delimiter=_delimiter(text)))
    except csv.Error as error:
        raise InvalidInput(
            f"The captions {name} are no table: {error}. Look for a quote that is never closed."
        ) from error


def _named(rows: Sequence[Mapping[str, str | None]], name: str) -> Pairs:
    first = rows[0] if rows else {}
    image = next((key for key in _IMAGE_KEYS if key in first), None)
    caption = next((key for key in _CAPTION_KEYS if key in first), None)
    if image is None or caption is None:
        raise InvalidInput(
            f"{name} has the columns {', '.join(map(str, first)) or '(none)'}; captions need the "
            "columns image and caption."
        )
    return [(row[image] or "", (row[caption] or "").strip()) for row in rows]


def _by_name(pairs: Pairs, source: ImageSource) -> list[tuple[str, ...]]:
    """By the photo's path, or by its last part where the list has no folders."""
    texts: dict[str, list[str]] = defaultdict(list)
    for name, caption in pairs:
        if caption:
            texts[name].append(caption)
    found = []
    for record in source.records:
        names = (record.id, record.path, PurePosixPath(record.path).name)
        hit = next((name for name in names if name in texts), None)
        found.append(tuple(texts[hit]) if hit is not None else ())
    return found


def _by_stem(texts: Mapping[str, str], records: Sequence[ImageRecord]) -> list[tuple[str, ...]]:
    """By the path up to the first dot of the name, as WebDataset joins files to samples."""
    return [_one(texts.get(_stem(record.id))) for record in records]


def _text_file(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as stream:
            return _one(stream.read(_MOST).decode("utf-8", "replace"))
    except OSError:
        return ()


def _one(text: str | None) -> tuple[str, ...]:
    """A caption, if it says anything."""
    stripped = (text or "").strip()
    return (stripped,) if stripped else ()


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _delimiter(text: str) -> str:
    return "\t" if "\t" in text.split("\n", 1)[0] else ","


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} is not UTF-8 text: {error}.") from error
