"""What the registry answers with: plain values, detached from the database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

ModelState = Literal["ready", "missing", "damaged"]
"""`missing`: its directory vanished; `damaged`: a part of it is not whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactRecord:
    """One artifact; `paths` are relative to the root, empty where none holds it any more."""

    fingerprint: str
    kind: str
    paths: tuple[str, ...]
    created: datetime | None
    dncbm_version: str
    seed: int | None
    encoder: str | None
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Fingerprint by role."""
    metrics: Mapping[str, Any]
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """One model directory; `path` is relative to the root, `.` where it is the root itself."""

    id: str
    path: str
    cbm: str
    """Fingerprint of its bottleneck, which fixes everything else by its inputs."""
    created: datetime | None
    state: ModelState


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasRecord:
    """What an alias stands for, since when, and who said why."""

    name: str
    model: str
    author: str
    reason: str
    time: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasChange:
    """One entry of an alias's history; `model` is None where the alias was removed."""

    name: str
    model: str | None
    author: str
    reason: str
    time: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """An artifact, or a leaf such as the data or the encoder, with what it was made from."""

    role: str
    """What it was to the one above; its own kind at the top."""
    fingerprint: str
    artifact: ArtifactRecord | None
    """None where it is not a registered artifact."""
    inputs: tuple["Lineage", ...] = ()
    more: bool = False
    """Has inputs that are not listed here: they stand elsewhere in the tree, or too deep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What a scan of the root found."""

    models: tuple[str, ...]
    """Ids of the models that are ready."""
    missing: tuple[str, ...]
    """Ids of the models whose directory is gone."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why a directory was not registered, by its path relative to the root."""
