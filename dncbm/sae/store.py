"""SAE artifacts on disk, and the formats of others: SAELens and the DN-CBM paper.

SAELens layout (`cfg.json` + `sae_weights.safetensors`): W_enc (d, c), b_enc, W_dec (c, d) and
b_dec, with the decoder bias subtracted from the input. Standardisation folds into these
exactly, because ReLU and TopK scale with their input.

The paper's checkpoint is a bare state dict of the `sparse_autoencoder` library whose tensors
carry a leading component axis of size 1.
"""

import math
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from dncbm.artifacts import (
    Manifest,
    create_artifact,
    load_manifest,
    read_json,
    verify_files,
    write_json,
    writing,
)
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.sae.activations import ReLU, TopK, build_activation
from dncbm.sae.config import SaeConfig
from dncbm.sae.model import SaeModel
from dncbm.sae.train import TrainedSae

WEIGHTS = "model.safetensors"
HISTORY = "history.json"
SAELENS_CONFIG = "cfg.json"
SAELENS_WEIGHTS = "sae_weights.safetensors"
_SAELENS_NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


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
    _require_finite(model)
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
        model.load_state_dict(_read_tensors(path / WEIGHTS))
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


def export_saelens(path: Path, model: SaeModel) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` that SAELens loads from disk.

    The layout has no input scale, so its codes are ours times `input_scale` (and sqrt(d) for
    a model that normalises: it becomes one with SAELens' `constant_norm_rescale`, whose
    inputs have that length). Reconstructions are the same.

    Raises:
        InvalidInput: the activation has no counterpart in the layout.
    """
    if model.activation.name not in ("relu", "topk"):
        raise InvalidInput(
            f"The SAELens layout is written for relu and topk, not {model.activation.name!r}. "
            "Store this model with save_sae."
        )
    length = math.sqrt(model.embed_dim) if model.normalize else 1.0
    scale = float(model.input_scale) * length
    bias = model.input_mean * length + scale * model.pre_bias.detach()
    tensors = {
        "W_enc": model.encoder_weight.detach().T,
        "b_enc": model.encoder_bias.detach() * scale,
        "W_dec": model.dictionary.detach(),
        "b_dec": bias,
    }
    config: dict[str, Any] = {
        "architecture": "topk" if isinstance(model.activation, TopK) else "standard",
        "d_in": model.embed_dim,
        "d_sae": model.num_concepts,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "constant_norm_rescale" if model.normalize else "none",
        "reshape_activations": "none",
        "metadata": {},
        **model.activation.settings(),
    }
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        packed = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(packed, path / SAELENS_WEIGHTS)
        write_json(path / SAELENS_CONFIG, config)


def import_saelens(path: Path) -> SaeModel:
    """A model from a directory in SAELens layout with a standard (ReLU) or TopK SAE.

    Dictionary rows are brought to unit length and the encoder absorbs the lengths, so the
    reconstruction is the same and codes are measured along unit directions.

    Raises:
        ArtifactError: files are missing or unreadable.
        InvalidInput: an architecture or input treatment that the model cannot represent.
    """
    config = read_json(path / SAELENS_CONFIG)
    tensors = _read_tensors(path / SAELENS_WEIGHTS)
    missing = [name for name in _SAELENS_NAMES if name not in tensors]
    if missing:
        raise ArtifactError(f"{path / SAELENS_WEIGHTS} lacks {', '.join(missing)}.")
    _check_saelens(config)
    kind = config.get("architecture", "standard")
    activation = TopK(_saelens_k(config)) if kind == "topk" else ReLU()
    normalize = config.get("normalize_activations") == "constant_norm_rescale"
    model = _assemble(
        encoder=tensors["W_enc"].T,
        dictionary=tensors["W_dec"],
        encoder_bias=tensors["b_enc"],
        pre_bias=tensors["b_dec"],
        activation=activation,
    )
    model.normalize = normalize
    if normalize:
        model.input_scale.fill_(1 / math.sqrt(model.embed_dim))
    return model


def import_paper(path: Path) -> SaeModel:
    """A model from a checkpoint of the DN-CBM authors (`torch.save` of a state dict).

    Read with `weights_only=True`: no code of the file runs.

    Raises:
        ArtifactError: missing, unreadable, or without the expected tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: the result is checked below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ArtifactError(f"{path} cannot be read as a checkpoint: {error}.") from error
    names = ("encoder._weight", "encoder._bias", "decoder._weight", "tied_bias")
    if not isinstance(state, Mapping) or any(name not in state for name in names):
        raise ArtifactError(
            f"{path} is no SAE checkpoint of Discover-then-Name: it must be a state dict with "
            f"{', '.join(names)}."
        )
    encoder, encoder_bias, decoder, tied_bias = (_one_component(state, n, path) for n in names)
    return _assemble(
        encoder=encoder,
        dictionary=decoder.T,
        encoder_bias=encoder_bias,
        pre_bias=tied_bias,
        activation=ReLU(),
    )


def _assemble(
    *,
    encoder: Tensor,
    dictionary: Tensor,
    encoder_bias: Tensor,
    pre_bias: Tensor,
    activation: ReLU | TopK,
) -> SaeModel:
    """A model with unit dictionary rows; encoder and bias take over the rows' lengths."""
    concepts, width = dictionary.shape
    model = SaeModel(width, concepts, activation=activation)
    lengths = dictionary.float().norm(dim=-1)
    if isinstance(activation, TopK) and not torch.allclose(lengths, torch.ones(()), atol=1e-4):
        raise InvalidInput(
            "The TopK SAE has dictionary rows of other lengths than 1; bringing them to unit "
            "length would change which codes are largest. Fold the lengths in before export."
        )
    with torch.no_grad():
        model.dictionary.copy_(functional.normalize(dictionary.float(), dim=-1))
        model.encoder_weight.copy_(encoder.float() * lengths[:, None])
        model.encoder_bias.copy_(encoder_bias.float() * lengths)
        model.pre_bias.copy_(pre_bias.float())
    _require_finite(model)
    return model.eval()


def _check_saelens(config: Mapping[str, Any]) -> None:
    supported = {
        "architecture": ("standard", "topk"),
        "normalize_activations": ("none", "constant_norm_rescale"),
        "apply_b_dec_to_input": (True,),
    }
    for name, known in supported.items():
        value = config.get(name, known[0])
        if value not in known:
            raise InvalidInput(
                f"The SAELens configuration has {name} {value!r}; supported: "
                f"{', '.join(map(str, known))}."
            )


def _saelens_k(config: Mapping[str, Any]) -> int:
    k = config.get("k") or config.get("activation_fn_kwargs", {}).get("k")
    if not k:
        raise InvalidInput("The SAELens configuration says topk but names no k.")
    return int(k)


def _one_component(state: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    """The tensor without its leading component axis, which must have size 1."""
    tensor = state[name]
    flat_axes = 2 if name.endswith("weight") else 1
    if tensor.ndim == flat_axes:
        return tensor
    if tensor.ndim != flat_axes + 1 or tensor.shape[0] != 1:
        raise ArtifactError(
            f"{path}: {name} has shape {tuple(tensor.shape)}; exactly one component is supported."
        )
    return tensor[0]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read as safetensors: {error}.") from error


def _require_finite(model: SaeModel) -> None:
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(
                f"The SAE's {name} holds NaN or infinite values; it will not be used. Train "
                "again with a lower learning rate."
            )
