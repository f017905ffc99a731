"""Images in folders: one per class, below train/validation/test or not, or all in one."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dncbm.data.layout import MAX_READ, is_image_name, records_from_paths
from dncbm.data.sources import ImageRecord
from dncbm.errors import InvalidInput

_HEAD = 8192
_MOST_HEADS = 10_000


class FileSource:
    """Images that are files; `files[i]` holds record i."""

    def __init__(self, records: Sequence[ImageRecord], files: Sequence[Path]) -> None:
        self.records = records
        self.files = files
        self.fingerprint = _fingerprint(records, files)

    def read(self, index: int) -> bytes:
        """The file's bytes; a missing or unreadable file is an `InvalidInput`."""
        try:
            with self.files[index].open("rb") as stream:
                return stream.read(MAX_READ)
        except FileNotFoundError as error:
            raise InvalidInput(f"The file {self.records[index].path} does not exist.") from error
        except OSError as error:
            path = self.records[index].path
            raise InvalidInput(f"The file {path} cannot be read: {error.strerror}.") from error


class GroupedFiles(FileSource):
    """Files whose images belong to groups, in which a network may fail while its mean is fine."""

    def __init__(
        self, records: Sequence[ImageRecord], files: Sequence[Path], groups: Sequence[str | None]
    ) -> None:
        super().__init__(records, files)
        self.groups = groups
        listed = json.dumps([self.fingerprint, list(groups)])
        self.fingerprint = hashlib.sha256(listed.encode()).hexdigest()


def open_folder(root: Path) -> FileSource:
    """All images below `root`, sorted by path; class and split come from the folder names.

    Raises:
        InvalidInput: there is no image below `root`.
    """
    paths = sorted(_image_paths(root))
    if not paths:
        raise InvalidInput(
            f"No images in {root}. It needs files such as .jpg or .png, in one folder per class "
            "(optionally below train/, validation/ and test/)."
        )
    return FileSource(records_from_paths(paths), [root / path for path in paths])


def holds_images(root: Path) -> bool:
    """Whether there is any image below `root`."""
    return next(_image_paths(root), None) is not None


def _image_paths(root: Path) -> Iterator[str]:
    """Relative POSIX paths of images."""
    return (name for name in paths_below(root) if is_image_name(name))


def paths_below(root: Path) -> Iterator[str]:
    """Relative POSIX paths of files; links to folders are followed, but never in a circle."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        relative = Path(folder).relative_to(root)
        yield from ((relative / name).as_posix() for name in files)


def _fingerprint(records: Sequence[ImageRecord], files: Sequence[Path]) -> str:
    """Over ids, labels, splits, sizes, and the first 8 KiB of at most 10,000 files.

    Whole files are not read, since a source may have millions of them; those whose beginning is
    read are evenly spaced.
    """
    digest = hashlib.sha256()
    spacing = -(-len(files) // _MOST_HEADS)
    for index, (record, file) in enumerate(zip(records, files, strict=True)):
        head = _head(file) if index % spacing == 0 else ""
        line = [record.id, record.label, record.split, _size(file), head]
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


def _size(file: Path) -> int:
    """In bytes; -1 for a file that cannot be seen, which is told when it is read."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _head(file: Path) -> str:
    """SHA-256 of the file's beginning, empty where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.sha256(stream.read(_HEAD)).hexdigest()
    except OSError:
        return ""
