"""Taking a bundle in: nothing in it is believed before it was checked.

It is unpacked into a hidden directory beside the model's place, checked there (names, sizes, the
checksum list, every manifest and fingerprint), and gets its name at the end.
"""

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dncbm.artifacts import MANIFEST, Manifest, slug, writing
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.files import LOCK, draft_of, sync, sync_all
from dncbm.registry.bundle import CARD, SUMS, copy_hashed, copy_stream, is_bundle_name
from dncbm.registry.reading import read_artifacts, require_model

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
_LONGEST_PATH = 500


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a bundle may hold."""

    entries: int = 1_000_000
    size_bytes: int = 1 << 40


def import_model(
    source: str | Path, root: str | Path, *, name: str | None = None, limits: Limits | None = None
) -> Path:
    """Put the model of a bundle below `root`; it appears all at once, complete, or not at all.

    Args:
        source: a zip file or a folder that `export_model` wrote.
        root: the folder of the models.
        name: of the new directory; default: that of the bundle.
        limits: the most that is taken in.

    Raises:
        InvalidInput: not a bundle, unsafe or unexpected names, too much of it, or a directory of
            this name exists.
        ArtifactError: a checksum, a manifest or a fingerprint is not right.
        ArtifactMismatch: its parts do not belong together.
        Unavailable: the disk is full or not writable.
    """
    source, limits = Path(source), limits or Limits()
    if not source.exists():
        raise InvalidInput(f"{source} does not exist. Give what `dncbm export` wrote.")
    plain = source.resolve().name
    target = Path(root) / slug(name or (plain.removesuffix(".zip") if source.is_file() else plain))
    _require_free(target)
    with writing(target), draft_of(target) as draft:
        if source.is_dir():
            hashes = _from_folder(source, draft, limits)
        else:
            hashes = _from_zip(source, draft, limits)
        _check(source, draft, hashes)
        sync_all(path for path in draft.rglob("*") if path.name != LOCK)
        _appear(draft, target)
    return target


def _require_free(target: Path) -> None:
    if target.exists():
        raise InvalidInput(f"{target} exists already. Choose another --name, or remove it.")


def _appear(draft: Path, target: Path) -> None:
    """Rename, which fails where another import came first."""
    try:
        os.rename(draft, target)
    except OSError:
        _require_free(target)
        raise
    (target / LOCK).unlink(missing_ok=True)
    sync(target.parent)


def _from_folder(source: Path, draft: Path, limits: Limits) -> dict[str, str]:
    files = list(_listed(source, limits.entries))
    with _readable(source):
        total = sum(file.stat().st_size for file in files)
    _require_size(source, total, limits)
    hashes = {}
    for file in files:
        name = file.relative_to(source).as_posix()
        path = _safe(source, name)
        with _readable(source):
            hashes[name] = copy_hashed(file, draft / path)
    return hashes


def _listed(source: Path, most: int) -> Iterator[Path]:
    """The files of a bundle folder; what begins with a dot at its top is not part of it."""
    count = 0
    with _readable(source):
        for top in sorted(source.iterdir()):
            if top.name.startswith("."):
                continue
            for path in [top, *sorted(top.rglob("*"))] if top.is_dir() else [top]:
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise InvalidInput(f"{path} is no plain file; a bundle holds plain files only.")
                if path.is_dir():
                    continue
                count += 1
                _require_count(source, count, most)
                yield path


def _from_zip(source: Path, draft: Path, limits: Limits) -> dict[str, str]:
    try:
        with _readable(source), zipfile.ZipFile(source) as archive:
            entries = _entries(source, archive, limits)
            return {name: _extract(archive, entry, draft / name) for name, entry in entries.items()}
    except _DAMAGE as error:
        raise InvalidInput(f"{source} is not a zip file or is damaged: {error}.") from error


def _entries(source: Path, archive: zipfile.ZipFile, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    _require_count(source, len(entries), limits.entries)
    _require_size(source, sum(entry.file_size for entry in entries), limits)
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = str(_safe(source, entry.filename))
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise InvalidInput(f"{source} holds {name!r}, which is no plain file. It is refused.")
        if entry.flag_bits & 1:
            raise InvalidInput(f"{source} is encrypted. Give an unencrypted zip.")
        if name in found:
            raise InvalidInput(f"{source} holds {name!r} twice. It is refused.")
        found[name] = entry
    return found


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as reader, target.open("xb") as writer:
        return copy_stream(reader, writer, entry.file_size)


def _safe(source: Path, name: str) -> PurePosixPath:
    """The name of an entry, if a bundle can hold it.

    Raises:
        InvalidInput: it leads elsewhere, or is of nothing that `export_model` writes.
    """
    parts = name.split("/")
    unsafe = any(part in ("", ".", "..") or part.startswith(".") for part in parts)
    if unsafe or not name.isprintable() or "\\" in name or ":" in name:
        raise InvalidInput(f"{source} holds the unsafe name {name[:100]!r}. It is refused.")
    if len(name) > _LONGEST_PATH or not is_bundle_name(parts):
        raise InvalidInput(
            f"{source} holds {name[:100]!r}, which is no part of a model. Give what `dncbm export` "
            "wrote."
        )
    return PurePosixPath(name)


def _require_count(source: Path, count: int, most: int) -> None:
    if count > most:
        raise InvalidInput(f"{source} holds more than {most:,} files, the limit. It is refused.")


def _require_size(source: Path, size: int, limits: Limits) -> None:
    if size > limits.size_bytes:
        raise InvalidInput(
            f"{source} would take {size:,} bytes; the limit is {limits.size_bytes:,}. Refused."
        )


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise InvalidInput(f"{source} cannot be read: {error.strerror}.") from error


def _check(source: Path, draft: Path, hashes: dict[str, str]) -> None:
    """The checksum list, the manifests, and that nothing is there which they do not name."""
    listed = _read_sums(source, draft)
    found = {name: value for name, value in hashes.items() if name not in (SUMS, CARD)}
    for name in sorted(listed.keys() ^ found.keys()):
        where = f"is missing, though {SUMS} lists it" if name in listed else f"is not in {SUMS}"
        raise ArtifactError(f"{source}: {name} {where}. Get the bundle again.")
    for name, value in listed.items():
        if found[name] != value:
            raise ArtifactError(f"{source}: {name} has another checksum. Get the bundle again.")
    try:
        manifests = {kind: item.manifest for kind, item in read_artifacts(draft).items()}
        require_model(draft, manifests)
    except ArtifactError as error:  # said of what was given, not of the hidden directory
        raise type(error)(str(error).replace(str(draft), str(source))) from error
    _check_manifests(source, manifests, found)


def _read_sums(source: Path, draft: Path) -> dict[str, str]:
    file = draft / SUMS
    if not file.is_file():
        raise InvalidInput(f"{source} is not a bundle: it has no {SUMS}. Make one: `dncbm export`.")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{source}: {SUMS} is not text. Get the bundle again.") from error
    sums = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if line and match is None:
            raise ArtifactError(f"{source}: {SUMS} has the line {line[:100]!r}. Get it again.")
        if match is not None:
            sums[match[2]] = match[1]
    return sums


def _check_manifests(source: Path, manifests: dict[str, Manifest], found: dict[str, str]) -> None:
    """Every file of an artifact is as its manifest says, and named there."""
    expected = {
        f"{kind}/{name}": value
        for kind, manifest in manifests.items()
        for name, value in manifest.files.items()
    }
    for name, value in found.items():
        kind, _, inner = name.partition("/")
        if inner and inner != MANIFEST and expected.get(name) != value:
            raise ArtifactError(
                f"{source}: {name} is not what {kind}/{MANIFEST} says. Get the bundle again."
            )
