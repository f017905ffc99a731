"""The files of an annotation set: in a folder, in a zip, in a folder inside a zip, or alone."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dncbm.data.annotations.regions import BadAnnotation
from dncbm.data.archives import DAMAGE, require_safe
from dncbm.data.folder import paths_below
from dncbm.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Place:
    """Names of files, relative and sorted, and a way to read them."""

    location: str
    names: Sequence[str]
    _read: Callable[[str, int], bytes]

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a file.

        Raises:
            BadAnnotation: it cannot be read or has more than `limit` bytes.
        """
        try:
            data = self._read(name, limit + 1)
        except (*DAMAGE, RuntimeError) as error:  # RuntimeError: an encrypted entry
            raise BadAnnotation(f"the file cannot be read: {error}") from error
        if len(data) > limit:
            raise BadAnnotation(f"the file has more than {limit:,} bytes, which is the limit")
        return data

    def text(self, name: str, limit: int) -> str:
        """The file as UTF-8.

        Raises:
            BadAnnotation: it cannot be read, is too long or no UTF-8.
        """
        try:
            return self.read(name, limit).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadAnnotation(f"the file is not UTF-8 text: {error.reason}") from error


def open_place(location: str) -> Place:
    """A folder, a file, a zip, or `set.zip/inner/folder`.

    Raises:
        InvalidInput: nothing is there, or the zip is damaged or has unsafe names.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        return Place(location, sorted(paths_below(path)), _from_folder(path))
    if path.is_file() and not zipfile.is_zipfile(path):
        return Place(location, [path.name], _from_folder(path.parent))
    archive = next((p for p in (path, *path.parents) if p.is_file()), None)
    if archive is None or not zipfile.is_zipfile(archive):
        raise InvalidInput(
            f"There are no annotations at {location}: it does not exist. Give a folder, a file or "
            "a zip with boxes or masks, or a folder inside a zip as set.zip/folder."
        )
    return _in_zip(location, archive, path.relative_to(archive).as_posix())


def _in_zip(location: str, archive: Path, inner: str) -> Place:
    prefix = "" if inner == "." else f"{inner}/"
    try:
        opened = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InvalidInput(f"{archive} is not a zip file or is damaged: {error}.") from error
    every = [info.filename for info in opened.infolist() if not info.is_dir()]
    for name in every:
        require_safe(archive, name)
    names = sorted(name.removeprefix(prefix) for name in every if name.startswith(prefix))
    if not names:
        raise InvalidInput(f"{archive} has no folder {inner!r}. Look into it with `unzip -l`.")

    def read(name: str, most: int) -> bytes:
        with opened.open(prefix + name) as stream:
            return stream.read(most)

    return Place(location, names, read)


def _from_folder(root: Path) -> Callable[[str, int], bytes]:
    def read(name: str, most: int) -> bytes:
        with (root / name).open("rb") as stream:
            return stream.read(most)

    return read


def stem(name: str) -> str:
    """A path without the last extension of its last part, with `/` between parts."""
    folder, slash, last = name.replace("\\", "/").rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)
