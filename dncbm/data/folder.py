"""Images in folders: one per class, below train/validation/test or not, or all in one."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dncbm.artifacts import fingerprint
from dncbm.data.layout import MAX_READ, is_image_name, records_from_paths
from dncbm.data.sources import ImageRecord
from dncbm.errors import InvalidInput

_HEAD = 8192


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
    """Relative POSIX paths of images; links to folders are followed, but never in a circle."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        relative = Path(folder).relative_to(root)
        yield from (name for f in files if is_image_name(name := (relative / f).as_posix()))


def _fingerprint(records: Sequence[ImageRecord], files: Sequence[Path]) -> str:
    """Over ids, labels, splits, and each file's size and first 8 KiB.

    Whole files are not read, since a source may have millions of them.
    """
    evidence = [
        [record.id, record.label, record.split, *_evidence(file)]
        for record, file in zip(records, files, strict=True)
    ]
    return fingerprint(evidence)


def _evidence(file: Path) -> tuple[int, str]:
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
            return os.fstat(stream.fileno()).st_size, hashlib.sha256(head).hexdigest()
    except OSError:
        return -1, ""
