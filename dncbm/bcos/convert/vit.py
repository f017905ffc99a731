"""A vision transformer that is one linear map of each image, and can hold anyone's weights.

In explanation mode query and key are held, so that attention is a matrix, and the variance of
layer norms is held too; values, MLPs and shortcuts are linear. Positions and class tokens are
added and written down: pixels + positions + biases = output. Source: Böhle et al. 2023 (B-cos
ViT), with the pre-norm blocks that timm, torchvision and open_clip share.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos.convert.parts import positioned
from dncbm.bcos.mode import added, explaining, with_gradient_of

Tokens = Float[Tensor, "n t d"]


class Attention(nn.Module):
    """Each token's mean of all tokens' values, weighted by softmax(query · key / √width).

    Args:
        qkv: all queries, keys and values, (3·d, d); plain weights.
        proj: of the result.
        heads: of the attention.
        query_norm: of the queries of each head, before the product.
        key_norm: of the keys.
    """

    def __init__(
        self, qkv: nn.Linear, proj: nn.Module, heads: int,
        query_norm: nn.Module | None = None, key_norm: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.qkv, self.proj, self.num_heads = qkv, proj, heads
        self.q_norm, self.k_norm = query_norm or nn.Identity(), key_norm or nn.Identity()

    def forward(self, x: Tokens) -> Tokens:
        """Attended."""
        if explaining():
            return self.proj(self._explained(x))
        return self.proj(_joined(functional.scaled_dot_product_attention(*self._parts(x))))

    def _parts(self, x: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in functional.linear(x, self.qkv.weight, self.qkv.bias).chunk(3, dim=-1)
        )
        return self.q_norm(query), self.k_norm(key), value

    def _explained(self, x: Tokens) -> Tokens:
        with torch.no_grad():
            query, key, value = self._parts(x)
            result = functional.scaled_dot_product_attention(query, key, value)
            matrix = (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)
        path = functional.linear(x, self.qkv.weight.chunk(3)[2])
        if self.qkv.bias is not None:
            path = path + added(self.qkv.bias.chunk(3)[2].expand(x.shape[1], -1), x, "bias")
        path = path.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return _joined(with_gradient_of(result, matrix @ path))


class Block(nn.Module):
    """x + attention of it, then + MLP of that; each after its norm and times its layer scale."""

    def __init__(
        self, norms: tuple[nn.Module, nn.Module], attention: Attention, mlp: nn.Sequential,
        scales: tuple[nn.Module, nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1, self.norm2 = norms
        self.attn, self.mlp = attention, mlp
        self.scale1, self.scale2 = scales

    def forward(self, x: Tokens) -> Tokens:
        """The same shape."""
        x = x + self.scale1(self.attn(self.norm1(x)))
        return x + self.scale2(self.mlp(self.norm2(x)))


@dataclass(frozen=True, kw_only=True)
class TowerParts:
    """What a `VisionTower` is made of; Identity where the original has nothing."""

    patch: nn.Module
    """Images (n, 6, h, w) to one vector per patch (n, d, y, x)."""
    patch_norm: nn.Module
    tokens: Tensor | None
    """(k, d): class and register tokens, before the patches; the first is read."""
    position: Tensor | None
    """(k + patches, d)."""
    norm_pre: nn.Module
    blocks: list[Block]
    norm: nn.Module
    """Before pooling."""
    pool: Literal["token", "avg"]
    """The first token, or the mean of all patches."""
    norm_pooled: nn.Module
    """After pooling."""
    head: nn.Module
    head_before_pool: bool = False


class VisionTower(nn.Module):
    """Patches, positions, blocks, pooling, head."""

    tokens: nn.Parameter | None
    position: nn.Parameter | None

    def __init__(self, parts: TowerParts) -> None:
        super().__init__()
        self.patch, self.patch_norm = parts.patch, parts.patch_norm
        for name in ("tokens", "position"):
            value = getattr(parts, name)
            self.register_parameter(
                name, None if value is None else nn.Parameter(value.detach().clone())
            )
        self.norm_pre, self.blocks, self.norm = (
            parts.norm_pre, nn.Sequential(*parts.blocks), parts.norm,
        )  # fmt: skip
        self.pool, self.head_before_pool = parts.pool, parts.head_before_pool
        self.norm_pooled, self.head = parts.norm_pooled, parts.head

    def forward(self, images: Float[Tensor, "n 6 h w"]) -> Float[Tensor, "n o"]:
        """The head's output.

        Raises:
            InvalidInput: images of another size than the positions are for.
        """
        x = self.patch_norm(self.patch(images).flatten(2).mT)
        if self.tokens is not None:
            tokens = added(self.tokens, x, "bias").to(x.dtype)
            x = torch.cat([tokens.expand(len(x), -1, -1), x], dim=1)
        x = positioned(x, self.position)
        return self._pooled(self.norm(self.blocks(self.norm_pre(x))))

    def _pooled(self, x: Tokens) -> Float[Tensor, "n o"]:
        if self.pool == "token":
            return self.head(self.norm_pooled(x[:, 0]))
        patches = x if self.tokens is None else x[:, len(self.tokens) :]
        if self.head_before_pool:
            return self.head(patches).mean(dim=1)
        return self.head(self.norm_pooled(patches.mean(dim=1)))


def _joined(heads: Float[Tensor, "n k t w"]) -> Tokens:
    return heads.transpose(1, 2).flatten(2)
