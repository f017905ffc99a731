"""A random encoder of a few thousand weights and folders of noise to embed with it."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from dncbm.encoders.clip import Encoder, load_encoder

CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


def write_model_folder(folder: Path, *, seed: int = 0, mean: float = 0.5) -> Path:
    """A model as the hub stores it: config with preprocessing, and random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [mean] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
    config = {"model_cfg": CONFIG, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    model = open_clip.CLIP(**json.loads(json.dumps(CONFIG)))
    # Random initial projections are near zero; larger ones let images differ visibly.
    model.visual.proj.data.normal_()
    model.text_projection.data.normal_()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, str(folder / "open_clip_model.safetensors"))
    return folder


def tiny_encoder(folder: Path, **options: str) -> Encoder:
    return load_encoder(f"local-dir:{write_model_folder(folder)}", device="cpu", **options)
