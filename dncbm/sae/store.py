"""SAE artifacts on disk; `dncbm.sae.formats` has those of others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dncbm.artifacts import (
    Manifest,
    create_artifact,
    load_manifest,
    read_json,
    verify_files,
    write_json,
)
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.sae.activations import build_activation
from dncbm.sae.config import SaeConfig
from dncbm.sae.model import SaeModel
from dncbm.sae.train import TrainedSae

WEIGHTS = "model.safetensors"
HISTORY = "history.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedSae:
    """A stored SAE with its recipe."""

    model: SaeModel
    """On the CPU, in evaluation mode."""
    config: SaeConfig | None
    """None for an imported model, whose training is not known."""
    manifest: Manifest
    history: list[dict[str, float]] = field(default_factory=list)


def save_sae(
    path: Path,
    trained: TrainedSae | SaeModel,
    *,
    config: SaeConfig | None = None,
    inputs: Mapping[str, str] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write an `sae` artifact; returns its manifest.

    Args:
        path: directory to write, atomically.
        trained: what `train_sae` returned, or an imported model.
        config: the training recipe, where known.
        inputs: fingerprints by role, for example `{"embeddings": ..., "encoder": ...}`.
        metrics: further measurements for the manifest, beside those on the training rows.

    Raises:
        Unavailable: the disk is full or not writable.
        InvalidInput: the weights are not finite.
    """
    model = trained if isinstance(trained, SaeModel) else trained.model
    require_finite(model)
    recipe = {
        "architecture": model.architecture(),
        "training": None if config is None else config.as_dict(),
    }
    with create_artifact(path, "sae", config=recipe, inputs=dict(inputs or {})) as draft:
        tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
        save_file(tensors, draft.path / WEIGHTS)
        if isinstance(trained, TrainedSae):
            write_json(draft.path / HISTORY, trained.history)
            draft.metrics.update(trained.metrics.as_dict())
        draft.metrics.update(metrics or {})
    return load_manifest(path, "sae")


def load_sae(path: Path) -> LoadedSae:
    """Read an `sae` artifact, its content checked against the recorded hashes.

    Raises:
        ArtifactError: not an `sae` artifact, or damaged.
    """
    manifest = load_manifest(path, "sae")
    verify_files(path, manifest)
    try:
        model = build_model(manifest.config["architecture"])
        model.load_state_dict(read_tensors(path / WEIGHTS))
        training = manifest.config["training"]
        config = None if training is None else SaeConfig(**training)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"{path} does not hold a readable SAE: {error}.") from error
    history = read_json(path / HISTORY) if (path / HISTORY).exists() else []
    return LoadedSae(model=model.eval(), config=config, manifest=manifest, history=history)


def build_model(architecture: Mapping[str, Any]) -> SaeModel:
    """An untrained model of the shape that `SaeModel.architecture` describes."""
    activation = build_activation(
        architecture["activation"], dict(architecture["activation_settings"])
    )
    return SaeModel(
        architecture["embed_dim"],
        architecture["num_concepts"],
        activation=activation,
        normalize=architecture["normalize"],
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ArtifactError: missing or damaged.
    """
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read as safetensors: {error}.") from error


def require_finite(model: SaeModel) -> None:
    """Refuse a model with NaN or infinite numbers, by the name of the tensor."""
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(
                f"The SAE's {name} holds NaN or infinite values; it will not be used. Train "
                "again with a lower learning rate."
            )
