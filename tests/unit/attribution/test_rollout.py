"""Attention rollout beside its oracle, in the vision transformers of three libraries."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution.rollout import rollout
from dncbm.errors import InvalidInput
from tests.oracles import attribution_evaluation as oracle
from tests.unit.attribution._networks import relus


class _Tokens(nn.Module):
    """Two blocks of attention over a class token and 2 x 3 patches."""

    def __init__(self, *, extra: bool, pool: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.first = nn.Parameter(torch.randn(1, int(extra), 8))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.pool = nn.MultiheadAttention(8, 2, batch_first=True) if pool else None
        self.query = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.first.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        if self.pool is not None:
            return self.pool(self.query.expand(len(tokens), -1, -1), tokens, tokens)[0][:, 0]
        return tokens[:, 0] if self.first.shape[1] else tokens.mean(1)


def _images() -> Tensor:
    return torch.randn(2, 3, 4, 6, dtype=torch.float64)


def _attention(net: _Tokens, images: Tensor) -> list[np.ndarray]:
    """(n, heads, t, t) of each block, computed from its weights."""
    found: list[np.ndarray] = []
    handles = [
        block.register_forward_pre_hook(
            lambda module, inputs: found.append(
                module.self_attn(*inputs * 3, average_attn_weights=False)[1].detach().numpy()
            )
        )
        for block in net.blocks
    ]
    net(images)
    for handle in handles:
        handle.remove()
    return found


def test_rollout_is_the_oracles() -> None:
    images = _images()
    for extra in (True, False):
        net = _Tokens(extra=extra).double().eval()
        found = rollout(net, images, torch.tensor([[0, 1], [2, 3]]))
        assert found.shape == (2, 2, 2, 3)
        assert torch.equal(found[:, 0], found[:, 1])
        blocks = _attention(net, images)
        for n in range(2):
            reach = oracle.rollout([block[n] for block in blocks])
            row = reach[0][1:] if extra else reach.mean(axis=0)
            np.testing.assert_allclose(found[n, 0], row.reshape(2, 3), rtol=1e-6)


def test_attention_after_a_layer_counts() -> None:
    net, images = _Tokens(extra=True).double().eval(), _images()
    found = rollout(net, images, layer="blocks.0")
    last = _attention(net, images)[1]
    for n in range(2):
        row = oracle.rollout([last[n]])[0][1:]
        np.testing.assert_allclose(found[n, 0], row.reshape(2, 3), rtol=1e-6)
    assert not net.blocks[0]._forward_hooks


def test_a_pool_at_the_end_reads_the_tokens() -> None:
    net, images = _Tokens(extra=False, pool=True).double().eval(), _images()
    found = rollout(net, images)
    torch.testing.assert_close(found.sum((-2, -1)), torch.ones(2, 1, dtype=torch.float64))
    other = rollout(net, images, read="mean")
    assert torch.equal(other, found)


def test_what_the_output_is_read_from_can_be_said() -> None:
    net, images = _Tokens(extra=True).double().eval(), _images()
    assert torch.equal(rollout(net, images), rollout(net, images, read="class"))
    assert not torch.allclose(rollout(net, images), rollout(net, images, read="mean"))


def _timm() -> Any:
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=2, num_heads=2, num_classes=3
    )


def _torchvision() -> Any:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 16, 2, 2, 12, 24, num_classes=3)


def _open_clip() -> Any:
    from open_clip.transformer import VisionTransformer

    return VisionTransformer(32, 16, 12, 2, 2, 2.0, output_dim=3)


@pytest.mark.parametrize("made", [_timm, _torchvision, _open_clip])
def test_transformers_of_other_libraries_are_understood(made: Any) -> None:
    net = made().eval()
    plain = net(torch.ones(2, 3, 32, 32)).detach()
    found = rollout(net, torch.randn(2, 3, 32, 32), 0)
    assert found.shape == (2, 1, 2, 2)
    assert bool((found > 0).all())
    assert bool((found.sum((-2, -1)) < 1).all())  # some of it is the class token's
    torch.testing.assert_close(net(torch.ones(2, 3, 32, 32)), plain)


class _Windows(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        parts = images.flatten(2).mT.reshape(2 * len(images), 1, -1, 3)
        return nn.functional.scaled_dot_product_attention(parts, parts, parts).flatten(1)[:2]


def test_networks_without_such_attention_are_refused() -> None:
    images = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    with pytest.raises(InvalidInput, match="No attention was seen"):
        rollout(relus(), images, 0)
    with pytest.raises(InvalidInput, match="4 of it for 2 images"):
        rollout(_Windows(), images[:, :, :4, :6], 0)
    net = _Tokens(extra=True).double().eval()
    with pytest.raises(InvalidInput, match="No attention was seen"):
        rollout(net, _images(), layer="blocks.1")
