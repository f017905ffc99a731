"""Vision transformers (Beyer et al. 2022, "Better plain ViT baselines") as B-cos networks.

With or without a convolutional stem (Xiao et al. 2021). Attention holds queries and keys in
explanation mode, so that it is one fixed mixture of values; positions are reported as terms of
their own (Böhle et al. 2023, "Holistically Explainable Vision Transformers").
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos.mode import added, held
from dncbm.bcos.models.network import Network
from dncbm.bcos.models.parts import Parts
from dncbm.errors import InvalidInput

Tokens = Float[Tensor, "n t d"]


class _Attention(nn.Module):
    """Softmax attention of all tokens to all."""

    def __init__(self, parts: Parts, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = parts.norm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = parts.linear(width, width, bias=False)

    def forward(self, x: Tokens) -> Tokens:
        heads = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = heads.movedim(1, 3).unbind(1)  # (n, h, t, d) each
        mixed = functional.scaled_dot_product_attention(held(q), held(k), v)
        out: Tensor = self.to_out(mixed.movedim(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    """Two layers on each token."""

    def __init__(self, parts: Parts, width: int, hidden: int) -> None:
        super().__init__()
        layers = OrderedDict[str, nn.Module](
            norm=parts.norm(width),
            linear1=parts.linear(width, hidden),
            act=parts.activation(),
            linear2=parts.linear(hidden, width),
        )
        self.net = nn.Sequential(layers)

    def forward(self, x: Tokens) -> Tokens:
        out: Tensor = self.net(x)
        return out


class _Encoder(nn.Module):
    def __init__(self, parts: Parts, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = _Attention(parts, width, heads)
        self.ff = _FeedForward(parts, width, hidden)

    def forward(self, x: Tokens) -> Tokens:
        x = self.attn(x) + x
        mixed: Tensor = self.ff(x) + x
        return mixed


@final
class ViT(Network):
    """A vision transformer without class token.

    Images may have any size of whole patches.

    Args:
        parts: B-cos or ordinary.
        width: of a token.
        depth: number of encoders.
        heads: of each attention.
        num_classes: k.
        in_chans: channels of the images.
        patch_size: pixels along a patch's side, of the stem's maps where there is a stem.
        stem: channels of 3 x 3 convolutions before the patches; those with more channels than the
            one before have stride 2.
        mlp: hidden width of an encoder, in widths.
    """

    def __init__(  # noqa: PLR0913 - the architecture's own choices
        self, parts: Parts, *, width: int, depth: int, heads: int, num_classes: int = 1000,
        in_chans: int = 6, patch_size: int = 16, stem: Sequence[int] = (), mlp: int = 4,
    ) -> None:  # fmt: skip
        super().__init__(num_classes=num_classes, in_chans=in_chans, is_bcos=parts.is_bcos)
        if width % 4 or width % heads:
            raise InvalidInput(
                f"Width {width} with {heads} heads; the rule is a multiple of 4 and of the heads."
            )
        self.patch_size = patch_size
        layers = OrderedDict[str, nn.Module]()
        if stem:
            layers["conv_stem"] = _stem(parts, in_chans, stem)
        channels = stem[-1] if stem else in_chans
        layers["rearrange"] = _Patches(patch_size)
        layers["linear"] = parts.linear(channels * patch_size**2, width)
        encoders = OrderedDict[str, nn.Module](
            (f"encoder_{i}", _Encoder(parts, width, heads, mlp * width)) for i in range(depth)
        )
        # checkpoints of B-cos ones have everything under `0.`
        root = nn.Module() if self.is_bcos else self
        root.to_patch_embedding = nn.Sequential(layers)
        root.transformer = nn.Sequential(encoders)
        root.linear_head = nn.Sequential(
            OrderedDict(norm=parts.norm(width), linear=parts.linear(width, num_classes))
        )
        if self.is_bcos:
            self.add_module("0", root)

    @property
    def head_path(self) -> str:
        """Path of the layer that makes classes."""
        return "0.linear_head.linear" if self.is_bcos else "linear_head.linear"

    def features(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n d y x"]:
        """Tokens after the last encoder, as maps."""
        root = self._root()
        tokens = root.get_submodule("to_patch_embedding")(x)
        grid, width = tokens.shape[1:3], tokens.shape[3]
        table = sines(grid[0], grid[1], width, tokens.device).to(tokens.dtype)
        tokens = (tokens + added(table, tokens, "position")).flatten(1, 2)
        tokens = root.get_submodule("transformer")(tokens)
        return tokens.unflatten(1, tuple(grid)).movedim(3, 1)

    def classify(self, features: Float[Tensor, "n d y x"]) -> Float[Tensor, "n k"]:
        """Logits of the mean token."""
        logits = self._root().get_submodule("linear_head")(features.mean((2, 3)))
        shifted: Tensor = self.logit_layer(logits)
        return shifted

    def _root(self) -> nn.Module:
        return self.get_submodule("0") if self.is_bcos else self


class _Patches(nn.Module):
    """Patches as rows; channels of a pixel lie side by side, as in checkpoints."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n y x p"]:
        size = self.size
        if x.shape[2] % size or x.shape[3] % size:
            raise InvalidInput(
                f"Maps of {x.shape[2]} x {x.shape[3]} do not divide into patches of {size} x "
                f"{size}; the rule is a multiple of {size}. Resize or crop the images."
            )
        patches = x.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (n, c, y, i, x, j)
        # in order, as torch multiplies other layouts another way with gradients than without
        return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).contiguous()


def sines(
    height: int, width: int, channels: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "h w d"]:
    """Positions as sines and cosines of column and row at `channels / 4` wave lengths.

    In float32, as the networks of B-cos v2 were trained.
    """
    count = channels // 4
    waves = 1 / 10_000 ** (torch.arange(count, device=device) / max(count - 1, 1))
    rows = torch.arange(height, device=device)[:, None, None] * waves
    columns = torch.arange(width, device=device)[None, :, None] * waves
    shape = (height, width, count)
    parts = [columns.sin(), columns.cos(), rows.sin(), rows.cos()]
    return torch.cat([part.expand(shape) for part in parts], dim=-1)


def _stem(parts: Parts, in_chans: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in zip([in_chans, *widths], widths, strict=False):
        stride = 2 if outside > inside else 1
        conv = parts.conv(inside, outside, 3, stride=stride, padding=1, bias=not parts.is_bcos)
        layers += [conv, parts.norm2d(outside), parts.activation()]
    return nn.Sequential(*layers)
