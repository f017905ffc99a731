"""open_clip models and tokenizers made as their weights were trained, and what tells them apart."""

import hashlib
import json
import logging
from typing import Any

import open_clip
import torch
from torch import nn

from dncbm.encoders.spec import EncoderSpec

_log = logging.getLogger(__name__)
_PROBE_TEXTS = ("a photo of a cat.", "Snow-covered mountains; 3 boats!")


def recipe_of(spec: EncoderSpec) -> dict[str, Any]:
    """How the weights were trained, as far as a tag tells: preprocessing and activation."""
    if spec.recipe is None:
        return {}
    return open_clip.get_pretrained_cfg(spec.model_name, spec.recipe)


def created(spec: EncoderSpec, recipe: dict[str, Any]) -> nn.Module:
    """The model in float32 on the CPU, with its weights: never with random ones."""
    # With other pixels or another activation than they were trained with, weights are worthless.
    return open_clip.create_model(
        spec.model_name,
        pretrained=spec.pretrained,
        precision="fp32",
        force_quick_gelu=bool(recipe.get("quick_gelu", False)),
        force_preprocess_cfg=recipe,
        require_pretrained=True,
        weights_only=True,
    )


def tell_assumed(spec: EncoderSpec, config: dict[str, Any], preprocess: dict[str, Any]) -> None:
    """Warn of what is assumed about weights that no tag tells of."""
    tags = open_clip.list_pretrained_tags_by_model(spec.model_name)
    remedy = (
        f"name a tag that was trained as they were: {spec.model_name}:{tags[0]}@{spec.pretrained}"
        if tags
        else "put them into a folder with an open_clip_config.json and give local-dir:FOLDER"
    )
    _log.warning(
        "How the weights %s were trained is not known. Assumed are mean %s, std %s, %s "
        "interpolation, resize mode %s and the activation %s. If that is wrong, %s.",
        spec.pretrained, preprocess["mean"], preprocess["std"], preprocess["interpolation"],
        preprocess["resize_mode"], "QuickGELU" if config.get("quick_gelu") else "GELU", remedy,
    )  # fmt: skip


def tokenizer_of(spec: EncoderSpec) -> Any:
    """The tokenizer that goes with the model."""
    if spec.tokenizer_merges is None:
        return open_clip.get_tokenizer(spec.model_name)
    return open_clip.get_tokenizer(spec.model_name, bpe_path=str(spec.tokenizer_merges))


def fingerprint_of(
    config: Any, preprocessing: dict[str, Any], model: nn.Module, tokenizer: Any
) -> str:
    """SHA-256 over configuration, every weight, and how two probe texts are tokenised."""
    tokens = tokenizer(list(_PROBE_TEXTS)).tolist()
    head = json.dumps([config, preprocessing, tokens], sort_keys=True, default=str)
    digest = hashlib.sha256(head.encode())
    for name, value in sorted(model.state_dict().items()):
        data = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(data.view(torch.uint8).numpy())
    return digest.hexdigest()
