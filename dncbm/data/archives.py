"""Images read in place from zip files and from tar files as WebDataset writes them."""

import json
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from dncbm.artifacts import fingerprint
from dncbm.data.layout import MAX_READ, is_image_name, records_from_paths
from dncbm.data.sources import ImageRecord
from dncbm.errors import InvalidInput

DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, NotImplementedError,
)  # fmt: skip
"""What reading a damaged entry of a zip raises."""
_MOST_TEXT = 256
"""Bytes of a `.txt` that are looked at: a class name is shorter."""
_LABEL_KEYS = ("label", "class", "cls", "category")


class ZipSource:
    """Images inside one zip file; every process opens the file for itself."""

    def __init__(self, path: Path, records: Sequence[ImageRecord], fingerprint: str) -> None:
        self.path = path
        self.records = records
        self.fingerprint = fingerprint
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None}

    def read(self, index: int) -> bytes:
        """The entry's bytes; a damaged entry is an `InvalidInput`."""
        name = self.records[index].id
        try:
            with self._open().open(name) as stream:
                return stream.read(MAX_READ)
        except DAMAGE as error:
            raise InvalidInput(f"The entry {name} of {self.path} is damaged: {error}.") from error

    def _open(self) -> zipfile.ZipFile:
        # A forked worker would share its parent's file position: it opens the file again.
        if self._archive is None or self._owner != os.getpid():
            self._archive, self._owner = zipfile.ZipFile(self.path), os.getpid()
        return self._archive


def open_zip(path: Path) -> ZipSource:
    """The images of a zip, sorted by name; folders inside mean class and split.

    Raises:
        InvalidInput: damaged, encrypted, with unsafe names, or without images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InvalidInput(f"{path} is not a zip file or is damaged: {error}.") from error
    for name in entries:
        require_safe(path, name)
    names = sorted(name for name in entries if is_image_name(name))
    if not names:
        raise InvalidInput(
            f"No images in {path}: {len(entries)} entries, none of them .jpg, .png, ..."
        )
    locked = [name for name in names if entries[name].flag_bits & 1]
    if locked:
        raise InvalidInput(
            f"{path} is encrypted ({locked[0]!r} needs a password). Give an unencrypted zip."
        )
    records = records_from_paths(names)
    evidence = [[n, entries[n].file_size, entries[n].CRC] for n in names]
    return ZipSource(path, records, fingerprint(evidence))


def require_safe(archive: Path, name: str) -> None:
    """Refuse names that point outside the archive: they are never honest."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in name.split("/")[0]:
        raise InvalidInput(
            f"{archive} holds the unsafe name {name!r}, which points outside the archive. "
            "Pack it again with plain relative names."
        )


@dataclass(frozen=True, slots=True)
class _Member:
    """One file inside a tar: which tar, where its bytes begin and how many there are."""

    shard: int
    offset: int
    size: int


class TarSource:
    """Images inside uncompressed tar files, read by their position."""

    def __init__(
        self, shards: Sequence[Path], records: Sequence[ImageRecord], members: Sequence[_Member]
    ) -> None:
        self.shards = shards
        self.records = records
        self.members = members
        evidence = [
            [r.id, r.label, r.split, m.size, m.offset]
            for r, m in zip(records, members, strict=True)
        ]
        self.fingerprint = fingerprint([evidence, [_edge(shard) for shard in shards]])

    def read(self, index: int) -> bytes:
        """The member's bytes; a file that has become shorter is an `InvalidInput`."""
        data = self._bytes(self.members[index])
        if len(data) < min(self.members[index].size, MAX_READ):
            raise InvalidInput(f"The member {self.records[index].id} is cut short.")
        return data

    def _bytes(self, member: _Member) -> bytes:
        try:
            with self.shards[member.shard].open("rb") as stream:
                stream.seek(member.offset)
                return stream.read(min(member.size, MAX_READ))
        except OSError as error:
            shard = self.shards[member.shard]
            raise InvalidInput(f"{shard} cannot be read: {error.strerror}.") from error


def _edge(path: Path) -> list[int | str]:
    """Size and last 64 KiB checksum of a file: cheap evidence of its content."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 65536))
        return [size, zlib.crc32(stream.read())]


def open_tar(*shards: Path) -> TarSource:
    """The images of one or more tar files, in tar order.

    Files that share a name up to the first dot are one sample, as in WebDataset: its label
    is the content of `.cls`, the `label` of `.json`, or the text of `.txt` where texts
    repeat (texts that hardly ever repeat are captions). Else the folders inside decide.

    Raises:
        InvalidInput: damaged, compressed, with unsafe names, or without images.
    """
    names: list[str] = []
    members: list[_Member] = []
    labels: dict[str, str] = {}
    texts: dict[str, str] = {}
    for number, shard in enumerate(shards):
        prefix = f"{shard.stem}/" if len(shards) > 1 else ""
        for member, name, data in _scan(shard, number):
            if data is None:
                names.append(prefix + name)
                members.append(member)
            else:
                _note(prefix + _key(name), _extension(name), data, labels, texts)
    if not names:
        raise InvalidInput(f"No images in {shards[0]}: it has no member such as .jpg or .png.")
    return TarSource(shards, _label(names, labels, texts, many=len(shards) > 1), members)


def _scan(shard: Path, number: int) -> Iterator[tuple[_Member, str, bytes | None]]:
    """Image members, and small label files together with their content."""
    try:
        with tarfile.open(shard, mode="r:") as archive:
            while (info := archive.next()) is not None:
                # tarfile keeps all members it has seen, a kilobyte each; `next` needs none of them.
                archive.members.clear()  # type: ignore[attr-defined]
                name = info.name.removeprefix("./")
                require_safe(shard, name)
                member = _Member(number, info.offset_data, info.size)
                if info.isfile() and is_image_name(name):
                    yield member, name, None
                elif info.isfile() and _is_sidecar(name, info.size):
                    stream = archive.extractfile(info)
                    limit = _MOST_TEXT if _extension(name) == "txt" else info.size
                    yield member, name, stream.read(limit) if stream else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InvalidInput(
            f"{shard} is not an uncompressed tar file or is damaged: {error}. "
            "Unpack a compressed one first (gunzip): images are read in place."
        ) from error


def _is_sidecar(name: str, size: int) -> bool:
    return _extension(name) in ("cls", "json", "txt") and size <= 65536


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return (path.parent / path.name.split(".", 1)[0]).as_posix()


def _extension(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[2].lower()


def _note(
    key: str, extension: str, data: bytes, labels: dict[str, str], texts: dict[str, str]
) -> None:
    """Keep what a small file says about its sample; `.cls` counts more than `.json`."""
    if extension == "txt":
        found, notes = _text(data), texts
    elif extension == "cls":
        found, notes = _text(data), labels
    else:
        found, notes = labels.get(key) or _json_label(data), labels
    if found:
        notes[key] = found


def _label(
    names: Sequence[str], labels: Mapping[str, str], texts: Mapping[str, str], *, many: bool
) -> list[ImageRecord]:
    # The shard's own name leads each id; it says nothing about the class.
    inner = [name.split("/", 1)[1] for name in names] if many else list(names)
    records = [
        replace(r, id=n, path=n) for r, n in zip(records_from_paths(inner), names, strict=True)
    ]
    keys = [_key(name) for name in names]
    told = [texts[key] for key in keys if key in texts]
    captions = len(set(told)) > len(told) / 2
    found = [labels.get(key) or (None if captions else texts.get(key)) for key in keys]
    return [replace(r, label=label or r.label) for r, label in zip(records, found, strict=True)]


def _text(data: bytes) -> str | None:
    return data.decode("utf-8", "replace").strip() or None


def _json_label(data: bytes) -> str | None:
    try:
        values = json.loads(data)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    found = next((values[key] for key in _LABEL_KEYS if key in values), None)
    return str(found) if isinstance(found, str | int) else None
