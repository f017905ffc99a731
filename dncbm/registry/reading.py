"""Reading the artifacts of a model directory, whose manifests may come from anywhere."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from dncbm.artifacts import MANIFEST, OPEN_CLIP_CONFIG, Kind, Manifest, load_manifest, require_input
from dncbm.errors import ArtifactError

KINDS: tuple[str, ...] = get_args(Kind)
NEEDED = ("sae", "dictionary")
"""What a model needs beside its `cbm`."""
_MOST_MANIFEST_BYTES = 256 << 20
_LONGEST = 64
"""Characters of a role or a fingerprint (SHA-256 in hex)."""
_FIELDS: Mapping[str, type] = {
    "kind": str, "format_version": int, "dncbm_version": str, "config": dict, "inputs": dict,
    "files": dict, "metrics": dict, "created": str,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FoundArtifact:
    """An artifact as it lies on disk."""

    name: str
    """Of its directory, which is its kind."""
    manifest: Manifest
    size_bytes: int
    created: datetime | None
    encoder: str | None
    """What the encoder is called by the artifact, or by one beside it that used the same."""


def has_artifacts(folder: Path) -> bool:
    """Whether `folder` holds at least one directory with an artifact's name and a manifest."""
    return any((folder / kind / MANIFEST).is_file() for kind in KINDS)


def read_directory(folder: Path) -> dict[str, FoundArtifact]:
    """The artifacts of a model directory by kind.

    Raises:
        ArtifactError: the directory is still being written, or an artifact in it is not whole.
    """
    if folder.name.startswith("."):
        raise ArtifactError(
            f"{folder} is still being written: its name begins with a dot until it is complete. "
            "Wait, or remove it if its program was stopped."
        )
    return read_artifacts(folder)


def read_artifacts(folder: Path) -> dict[str, FoundArtifact]:
    """Like `read_directory`, also of a directory that is still being written."""
    kinds = [kind for kind in KINDS if _is_artifact(folder / kind)]
    manifests = {kind: read_manifest(folder / kind) for kind in kinds}
    encoders = _encoder_names(manifests.values())
    return {
        kind: FoundArtifact(
            name=kind,
            manifest=manifest,
            size_bytes=_size(folder / kind, manifest),
            created=_moment(manifest.created),
            encoder=encoders.get(manifest.inputs.get("encoder", "")),
        )
        for kind, manifest in manifests.items()
    }


def read_manifest(path: Path) -> Manifest:
    """The manifest of the artifact at `path`, which is called after its kind.

    Raises:
        ArtifactError: not an artifact, of another kind, incomplete, or not of the right form.
    """
    _check_form(path)
    return load_manifest(path, path.name)  # type: ignore[arg-type]  # names are kinds here


def require_model(folder: Path, found: Mapping[str, Manifest]) -> None:
    """Refuse a directory that is no finished model, or whose parts do not belong together.

    Raises:
        ArtifactError: a part is missing.
        ArtifactMismatch: the bottleneck was made from other parts than those beside it.
    """
    missing = [kind for kind in ("cbm", *NEEDED) if kind not in found]
    if missing:
        raise ArtifactError(
            f"{folder} holds no finished model: {', '.join(missing)} missing. Finish it with "
            "`dncbm bottleneck`, or give the directory that `dncbm quickstart --out` left."
        )
    for role in NEEDED:
        require_input(
            found["cbm"], role, found[role].fingerprint, artifact=str(folder / "cbm"),
            remedy="Run `dncbm bottleneck` again.",
        )  # fmt: skip


def seed_of(config: Mapping[str, Any]) -> int | None:
    """The seed in a recipe, at the top or one table below."""
    for table in (config, *(value for value in config.values() if isinstance(value, dict))):
        seed = table.get("seed")
        if isinstance(seed, int) and not isinstance(seed, bool) and abs(seed) < 2**63:
            return seed
    return None


def finite(value: Any) -> Any:
    """The same JSON value with None for NaN and infinity, which a database does not keep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value


def _is_artifact(path: Path) -> bool:
    """A finished or half-written artifact, and not the weights of an open_clip model."""
    is_foreign = (path / OPEN_CLIP_CONFIG).is_file() and not (path / MANIFEST).is_file()
    return path.is_dir() and not is_foreign


def _check_form(path: Path) -> None:
    """Types and lengths of what a manifest holds; `load_manifest` checks what it means."""
    file = path / MANIFEST
    if not file.is_file():
        raise ArtifactError(
            f"{path} is half written: it has no {MANIFEST}. Run its stage to the end, or remove it."
        )
    try:
        if file.stat().st_size > _MOST_MANIFEST_BYTES:
            raise ArtifactError(f"{file} is larger than any manifest. Make the artifact again.")
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{file} cannot be read: {error}. Make the artifact again.") from error
    if not isinstance(data, dict) or not all(
        isinstance(data.get(name), kind) for name, kind in _FIELDS.items()
    ):
        raise ArtifactError(f"{file} is not a dncbm manifest. Make the artifact again.")
    texts = [data["kind"], data["dncbm_version"], *data["inputs"], *data["inputs"].values(),
             *data["files"].values()]  # fmt: skip
    if not all(isinstance(text, str) and _plain(text) for text in texts):
        raise ArtifactError(
            f"{file} holds a name or fingerprint that is not a short plain text. Make the "
            "artifact again."
        )


def _plain(text: str) -> bool:
    return len(text) <= _LONGEST and text.isprintable()


def _size(folder: Path, manifest: Manifest) -> int:
    """Bytes on disk, the manifest included."""
    return sum((folder / name).stat().st_size for name in (MANIFEST, *manifest.files))


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _encoder_names(manifests: Any) -> dict[str, str]:
    """What the encoder of a fingerprint is called, as far as these artifacts say."""
    names = {}
    for manifest in manifests:
        name, used = manifest.config.get("encoder"), manifest.inputs.get("encoder")
        if isinstance(name, str) and used and "\0" not in name:
            names[used] = name
    return names
