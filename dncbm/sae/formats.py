"""Autoencoders in the formats of others: SAELens, and the checkpoints of the DN-CBM paper.

SAELens layout (`cfg.json` + `sae_weights.safetensors`): W_enc (d, c), W_dec (c, d), b_dec, which
is subtracted from the input, and by architecture b_enc, thresholds, or the gate's and magnitude's
biases. Our standardisation folds into these exactly, because every activation scales with its
input when its thresholds do.

The paper's checkpoint is a bare state dict of the `sparse_autoencoder` library whose tensors
carry a leading component axis of size 1.
"""

import math
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from dncbm.artifacts import read_json, write_json, writing
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.sae.activations import Activation, BatchTopK, ReLU, TopK
from dncbm.sae.gates import Gated, JumpReLU
from dncbm.sae.model import SaeModel
from dncbm.sae.store import read_tensors, require_finite

SAELENS_CONFIG = "cfg.json"
SAELENS_WEIGHTS = "sae_weights.safetensors"
_ARCHITECTURES = {
    "relu": "standard",
    "topk": "topk",
    "batchtopk": "jumprelu",  # as SAELens itself stores it: with the threshold of evaluation
    "jumprelu": "jumprelu",
    "gated": "gated",
}
_SMALLEST_THRESHOLD = 1e-12


def export_saelens(path: Path, model: SaeModel) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` that SAELens loads from disk.

    The layout has no input scale, so its codes are ours times `input_scale` (and sqrt(d) for
    a model that normalises: it becomes one with SAELens' `constant_norm_rescale`, whose
    inputs have that length). Reconstructions are the same.

    Raises:
        InvalidInput: the activation has no counterpart in the layout.
    """
    if model.activation.name not in _ARCHITECTURES:
        raise InvalidInput(
            f"The SAELens layout is written for {', '.join(_ARCHITECTURES)}, not "
            f"{model.activation.name!r}. Store this model with save_sae."
        )
    length = math.sqrt(model.embed_dim) if model.normalize else 1.0
    scale = float(model.input_scale) * length
    tensors = {
        "W_enc": model.encoder_weight.T,
        "W_dec": model.dictionary,
        "b_dec": model.input_mean * length + scale * model.pre_bias,
        **_saelens_biases(model, scale),
    }
    config: dict[str, Any] = {
        "architecture": _ARCHITECTURES[model.activation.name],
        "d_in": model.embed_dim,
        "d_sae": model.num_concepts,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "constant_norm_rescale" if model.normalize else "none",
        "reshape_activations": "none",
        "metadata": {},
    }
    if isinstance(model.activation, TopK):
        config["k"] = model.activation.k
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        packed = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        save_file(packed, path / SAELENS_WEIGHTS)
        write_json(path / SAELENS_CONFIG, config)


def _saelens_biases(model: SaeModel, scale: float) -> dict[str, Tensor]:
    """What an architecture has beside weights and decoder bias, for inputs `scale` as large."""
    activation, bias = model.activation, model.encoder_bias * scale
    if isinstance(activation, Gated):
        magnitude = activation.log_scale.exp() * bias + activation.offset * scale
        return {"b_gate": bias, "r_mag": activation.log_scale, "b_mag": magnitude}
    if isinstance(activation, JumpReLU):
        return {"b_enc": bias, "threshold": activation.log_threshold.exp() * scale}
    if isinstance(activation, BatchTopK):
        threshold = activation.threshold.clamp(min=0) * scale
        return {"b_enc": bias, "threshold": threshold.expand(model.num_concepts)}
    return {"b_enc": bias}


def import_saelens(path: Path) -> SaeModel:
    """A model from a directory in SAELens layout: standard, topk, jumprelu or gated.

    Dictionary rows are brought to unit length and the encoder absorbs the lengths, so the
    reconstruction is the same and codes are measured along unit directions.

    Raises:
        ArtifactError: files are missing or unreadable.
        InvalidInput: an architecture or input treatment that the model cannot represent.
    """
    config = read_json(path / SAELENS_CONFIG)
    tensors = read_tensors(path / SAELENS_WEIGHTS)
    _check_saelens(config)
    kind = config.get("architecture", "standard")
    wanted = {"gated": ("b_gate", "r_mag", "b_mag"), "jumprelu": ("b_enc", "threshold")}
    names = ("W_enc", "W_dec", "b_dec", *wanted.get(kind, ("b_enc",)))
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ArtifactError(f"{path / SAELENS_WEIGHTS} lacks {', '.join(missing)}.")
    lengths = tensors["W_dec"].float().norm(dim=-1)
    model = _assemble(
        encoder=tensors["W_enc"].T,
        dictionary=tensors["W_dec"],
        encoder_bias=tensors["b_gate" if kind == "gated" else "b_enc"],
        pre_bias=tensors["b_dec"],
        activation=_saelens_activation(kind, config, tensors, lengths),
    )
    model.normalize = config.get("normalize_activations") == "constant_norm_rescale"
    if model.normalize:
        model.input_scale.fill_(1 / math.sqrt(model.embed_dim))
    return model


@torch.no_grad()
def _saelens_activation(
    kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], lengths: Tensor
) -> Activation:
    """With what a unit dictionary makes of thresholds and offsets."""
    if kind == "topk":
        return TopK(_saelens_k(config))
    if kind == "jumprelu":
        jump = JumpReLU(len(lengths))
        threshold = tensors["threshold"].float() * lengths
        jump.log_threshold.copy_(threshold.clamp(min=_SMALLEST_THRESHOLD).log())
        return jump
    if kind == "gated":
        gated = Gated(len(lengths))
        scale = tensors["r_mag"].float()
        offset = tensors["b_mag"].float() - scale.exp() * tensors["b_gate"].float()
        gated.log_scale.copy_(scale)
        gated.offset.copy_(offset * lengths)
        return gated
    return ReLU()


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
    activation: Activation,
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
    require_finite(model)
    return model.eval()


def _check_saelens(config: Mapping[str, Any]) -> None:
    supported = {
        "architecture": ("standard", "topk", "jumprelu", "gated"),
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
