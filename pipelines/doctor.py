"""What an installation has and whether a model directory is whole."""

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dncbm.artifacts import load_manifest, package_version, verify_files
from dncbm.encoders.clip import load_encoder
from dncbm.errors import ArtifactError, DncbmError, InvalidInput
from dncbm.naming.vocabulary import read_words

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "faiss-cpu", "scikit-learn", "fastapi")
_EXTRAS = {
    "huggingface": "datasets",
    "ray": "ray",
    "postgres": "psycopg",
    "s3": "s3fs",
    "otel": "opentelemetry",
}
_PARTS = ("embeddings", "vocabulary", "sae", "dictionary", "cbm", "report")


def examine(model: Path | None) -> dict[str, Any]:
    """Versions, devices, bundled parts and, where given, a check of a model directory.

    Raises:
        InvalidInput: the model directory does not exist.
        ArtifactError: the model directory holds no artifact, or a damaged one.
    """
    if model is not None and not model.is_dir():
        raise InvalidInput(f"{model} does not exist. Give a model directory.")
    found: dict[str, Any] = {
        "dncbm": package_version(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "extras": {
            name: importlib.util.find_spec(module) is not None for name, module in _EXTRAS.items()
        },
        "cpus": os.cpu_count(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "free_disk_gib": round(shutil.disk_usage(model or Path.cwd()).free / 2**30, 1),
        "encoder_mini": _try(lambda: load_encoder("mini").fingerprint[:12]),
        "vocabulary_words": _try(lambda: len(read_words(None))),
    }
    if model is not None:
        found["model"] = _examine_model(model)
    return found


def _examine_model(model: Path) -> dict[str, str]:
    """What each part is: whole, missing, or stale because an input was made again."""
    found = {part: load_manifest(model / part) for part in _PARTS if (model / part).is_dir()}
    if not found:
        raise ArtifactError(f"{model} holds none of {', '.join(_PARTS)}. Give a model directory.")
    checked = dict.fromkeys(_PARTS, "missing")
    for part, manifest in found.items():
        verify_files(model / part, manifest)
        stale = [
            f"made with {role} {given[:12]}, but {role} is {found[role].fingerprint[:12]}"
            for role, given in manifest.inputs.items()
            if role in found and found[role].fingerprint != given
        ]
        mark = manifest.fingerprint[:12]
        checked[part] = f"stale: {'; '.join(stale)}" if stale else f"whole, {mark}"
    return checked


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _try(check: Any) -> Any:
    try:
        return check()
    except DncbmError as error:
        return f"broken: {error}"
