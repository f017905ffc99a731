"""Directories that stages hand to each other: data files plus a `manifest.json`.

An artifact appears all at once: it is written under a temporary name in the same parent
directory and renamed when complete, so a killed run leaves nothing that looks finished.
The manifest holds the recipe (configuration with seed), the fingerprints of the inputs
and a SHA-256 of every file. The fingerprint of an artifact is the SHA-256 of kind,
configuration, inputs and file hashes; it does not depend on time, path or machine.
Tensors are stored as safetensors; nothing is ever pickled.
"""

import errno
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from dncbm.errors import ArtifactError, ArtifactMismatch, Unavailable
from dncbm.files import draft_of, hidden, publish, sync_all

Kind = Literal[
    "embeddings", "sae", "vocabulary", "dictionary", "cbm", "report", "bcos", "localisation",
    "encoder", "guided",
]  # fmt: skip

FORMAT_VERSION = 2
"""2: a dictionary holds what its names were compared in."""
MANIFEST = "manifest.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
"""In a folder of open_clip's own, which is no artifact whatever it is called."""
_CHUNK = 1 << 20


def package_version() -> str:
    """Version of the installed dncbm, or `0+unknown` when run without installation."""
    try:
        return version("dncbm")
    except PackageNotFoundError:
        return "0+unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The recipe of an artifact, as read from or written to `manifest.json`."""

    kind: str
    format_version: int
    dncbm_version: str
    config: dict[str, Any]
    """Everything needed to make the artifact again, the seed included."""
    inputs: dict[str, str]
    """Fingerprint of each input by its role, for example `{"encoder": "sha256..."}`."""
    files: dict[str, str]
    """SHA-256 of each file by its relative path."""
    metrics: dict[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over kind, config, inputs and files; independent of time and place."""
        return fingerprint([self.kind, self.config, self.inputs, self.files])


@dataclass(kw_only=True, slots=True)
class ArtifactDraft:
    """An artifact under construction: write files below `path`, then leave the block."""

    path: Path
    metrics: dict[str, Any] = field(default_factory=dict)


def fingerprint(value: object) -> str:
    """SHA-256 (hex) of a JSON-serialisable value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def slug(name: str) -> str:
    """An artifact's name as it stands in addresses: lower-case letters, digits, single hyphens.

    `model` where nothing is left.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "model"


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write below `path` into clear errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(
                f"No space left while writing {path}. Finished parts are kept: free some "
                "space or choose another output directory, then run the same command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Unavailable(
                f"Cannot write to {path}: {error.strerror}. Choose an output directory that "
                "you may write to."
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise Unavailable(
                f"Cannot write to {path}: a file stands where a directory is needed. "
                "Choose another output directory."
            ) from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's content atomically: a reader sees the old or the new bytes."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = hidden(path, "part")
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing, unreadable or damaged one is an `ArtifactError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist.") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} is not valid JSON: {error}.") from error


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be read: {error.strerror}. Its owner has to let you read it, "
        "or make it again."
    )


def require_replaceable(path: Path) -> None:
    """Refuse to write an artifact where something else stands; nothing and emptiness are fine.

    Raises:
        ArtifactError: `path` holds something that is not an artifact.
    """
    empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not empty and not (path / MANIFEST).is_file():
        raise ArtifactError(
            f"{path} exists and is not a dncbm artifact; it will not be overwritten. "
            "Choose another output directory or remove it."
        )


@contextmanager
def create_artifact(
    path: Path, kind: Kind, *, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Iterator[ArtifactDraft]:
    """Write an artifact: files go below `draft.path`, the block's end publishes them.

    An exception inside the block leaves whatever stood at `path` untouched. An existing
    artifact at `path` is replaced.

    Raises:
        Unavailable: disk full, read-only or not a directory.
        ArtifactError: `path` holds something that is not an artifact.
    """
    with writing(path):
        require_replaceable(path)
        with draft_of(path) as draft_path:
            draft = ArtifactDraft(path=draft_path)
            yield draft
            seal(draft_path, kind, config=config, inputs=inputs, metrics=draft.metrics)
            require_replaceable(path)  # again: the block may have taken hours
            publish(draft_path, path)


def seal(
    path: Path,
    kind: Kind,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Hash the files below `path` and write its manifest: the last step of a stage.

    For stages that grow an artifact in place, shard by shard; others use
    `create_artifact`. Names beginning with a dot are working files and are not hashed.
    Every file becomes as readable as `path` is, and is flushed to the disk.
    """
    files = sorted(
        file for file in path.rglob("*") if file.is_file() and not _is_working(file, path)
    )
    with writing(path):
        folders = {file.parent for file in files} | {path}
        _share(path, [*files, *folders])
        sync_all([*files, *folders])
    manifest = Manifest(
        kind=kind,
        format_version=FORMAT_VERSION,
        dncbm_version=package_version(),
        config=json.loads(json.dumps(dict(config))),
        inputs=dict(inputs),
        files={file.relative_to(path).as_posix(): file_sha256(file) for file in files},
        metrics=json.loads(json.dumps(dict(metrics))),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(path / MANIFEST, asdict(manifest) | {"fingerprint": manifest.fingerprint})
    return manifest


def _share(root: Path, parts: Sequence[Path]) -> None:
    """Let whoever may read `root` read its parts, which safetensors and `mkdtemp` make private."""
    mode = root.stat().st_mode & 0o777
    for part in parts:
        own = part.stat().st_mode
        wanted = own | (mode if part.is_dir() else mode & 0o666)
        if wanted != own:
            part.chmod(wanted)


def _is_working(file: Path, root: Path) -> bool:
    relative = file.relative_to(root)
    return relative.name == MANIFEST or any(part.startswith(".") for part in relative.parts)


def load_manifest(path: Path, kind: Kind | None = None) -> Manifest:
    """Read and check the manifest of the artifact at `path`.

    Checks kind, format version, that every listed file is present and that the recorded
    fingerprint belongs to the manifest. `verify_files` also checks their content.

    Raises:
        ArtifactError: not an artifact, of another kind or version, or damaged.
    """
    try:
        present = (path / MANIFEST).is_file()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not present:
        raise ArtifactError(
            f"{path} is not a dncbm artifact: it has no {MANIFEST}. "
            "Give the directory that a dncbm stage wrote."
        )
    data = read_json(path / MANIFEST)
    recorded = data.pop("fingerprint", None) if isinstance(data, dict) else None
    try:
        manifest = Manifest(**data)
    except TypeError as error:
        raise ArtifactError(f"{path / MANIFEST} is not a dncbm manifest: {error}.") from error
    _check_manifest(path, manifest, kind, recorded)
    return manifest


def _check_manifest(path: Path, manifest: Manifest, kind: Kind | None, recorded: object) -> None:
    if manifest.format_version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {manifest.format_version}, this dncbm reads "
            f"{FORMAT_VERSION}. Make it again, or use dncbm {manifest.dncbm_version}."
        )
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{path} is of kind {manifest.kind!r}, not {kind!r}.")
    if recorded != manifest.fingerprint:
        raise ArtifactError(f"{path / MANIFEST} was changed after it was written. Make it again.")
    missing = [name for name in manifest.files if not _inside(path, name).is_file()]
    if missing:
        raise ArtifactError(f"{path} is incomplete: {', '.join(missing[:5])} missing.")


def _inside(root: Path, name: str) -> Path:
    """`root / name`, refusing names that leave `root` (manifests may be untrusted)."""
    target = (root / name).resolve()
    if not target.is_relative_to(root.resolve()):
        raise ArtifactError(f"{root / MANIFEST} names {name!r}, which is outside the artifact.")
    return target


def verify_files(path: Path, manifest: Manifest) -> None:
    """Compare every file with its recorded SHA-256; reads the whole artifact."""
    for name, expected in manifest.files.items():
        try:
            found = file_sha256(_inside(path, name))
        except OSError as error:
            raise _unreadable(path / name, error) from error
        if found != expected:
            raise ArtifactError(f"{path / name} was changed after it was written. Make it again.")


def require_input(
    manifest: Manifest, role: str, actual: str, *, artifact: str, remedy: str
) -> None:
    """Refuse an artifact that was made from another input than the one at hand.

    Args:
        manifest: of the artifact that is about to be used.
        role: key in `manifest.inputs`, for example `encoder`.
        actual: fingerprint of the input at hand.
        artifact: how to call the artifact in the message, for example its path.
        remedy: the next step for the user.

    Raises:
        ArtifactMismatch: the fingerprints differ.
    """
    expected = manifest.inputs.get(role)
    if expected != actual:
        raise ArtifactMismatch(
            f"{artifact} was made with {role} {_short(expected)}, but {role} {_short(actual)} "
            f"was given. {remedy}"
        )


def _short(value: str | None) -> str:
    return "(none)" if value is None else value[:12]
