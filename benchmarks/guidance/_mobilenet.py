"""MobileNetV1 0.75 with ImageNet weights of Keras, as a file that timm's wider network takes.

timm has `mobilenetv1_100` alone. Its further channels are zero in weights and in batch norms, so
they give nothing and get no gradient: the network is the narrow one.
"""

from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

NAME = "mobilenetv1_100"
_EPSILON = 1e-3 - 1e-5
"""Keras adds 1e-3 to a variance, timm 1e-5."""
_NORMS = {
    "weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
    "running_var": "moving_variance",
}  # fmt: skip


def mobilenet_file(weights: Path, target: Path) -> Path:
    """Write the state dict of `NAME` with the weights of a Keras archive; what is there stays."""
    if target.is_file():
        return target
    found = np.load(weights)
    state = {
        name: _padded(found, name, value)
        for name, value in timm.create_model(NAME).state_dict().items()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".draft")
    save_file(state, draft)
    draft.replace(target)
    return target


def _padded(found: "np.lib.npyio.NpzFile", name: str, like: Tensor) -> Tensor:
    module, kind = name.rsplit(".", 1)
    if kind == "num_batches_tracked":
        return like.clone()
    padded = torch.ones_like(like) if kind == "running_var" else torch.zeros_like(like)
    value = torch.from_numpy(np.ascontiguousarray(_value(found, module, kind)))
    if kind == "running_var":
        value = value + _EPSILON
    padded[tuple(slice(size) for size in value.shape)] = value
    return padded


def _value(found: "np.lib.npyio.NpzFile", module: str, kind: str) -> np.ndarray:
    """The array of Keras for a parameter of timm's, its axes as PyTorch has them."""
    if module == "classifier":
        array = found["conv_preds/kernel" if kind == "weight" else "conv_preds/bias"]
        return array.reshape(-1, array.shape[-1]).T if kind == "weight" else array
    layer = _layer(module)
    if kind in _NORMS and not module.endswith(("conv_stem", "conv_dw", "conv_pw")):
        return found[f"{layer}_bn/{_NORMS[kind]}"]
    if module.endswith("conv_dw"):
        return found[f"{layer}/depthwise_kernel"].transpose(2, 3, 0, 1)
    return found[f"{layer}/kernel"].transpose(3, 2, 0, 1)


def _layer(module: str) -> str:
    """`blocks.2.1.bn1` to `conv_dw_5`: depthwise and pointwise pairs are counted through."""
    if module in ("conv_stem", "bn1"):
        return "conv1"
    _, stage, block, part = module.split(".")
    number = _BLOCKS_BEFORE[int(stage)] + int(block) + 1
    return f"conv_{'dw' if part in ('conv_dw', 'bn1') else 'pw'}_{number}"


_BLOCKS_BEFORE = (0, 1, 3, 5, 11)
