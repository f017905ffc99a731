"""Rules for the vision transformers of timm, torchvision and open_clip: all become one tower."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dncbm.bcos.convert.parts import bcos_linear, plain_linear
from dncbm.bcos.convert.rules import Scan, converted, rule
from dncbm.bcos.convert.vit import Attention, Block, TowerParts, VisionTower

_TIMM = "timm.models.vision_transformer.VisionTransformer"
_TORCHVISION = "torchvision.models.vision_transformer.VisionTransformer"
_OPEN_CLIP = "open_clip.transformer.VisionTransformer"


@rule(_TIMM)
def _timm(model: Any, scan: Scan) -> nn.Module:
    _require(model, scan, _timm_limits(model))
    prefix = [token for token in (model.cls_token, model.reg_token) if token is not None]
    tokens = torch.cat(prefix, dim=1)[0] if prefix else None
    position = None if model.pos_embed is None else model.pos_embed[0]
    if position is not None and model.no_embed_class and tokens is not None:
        position = torch.cat([torch.zeros_like(tokens), position])
    blocks = [_timm_block(b, scan.below(f"blocks.{i}")) for i, b in enumerate(model.blocks)]
    return _tower(
        model, scan, patch="patch_embed.proj", patch_norm="patch_embed.norm", tokens=tokens,
        position=position, norm_pre="norm_pre",
        blocks=blocks,
        norm="norm", pool=model.global_pool, norm_pooled="fc_norm", head="head",
    )  # fmt: skip


def _timm_limits(model: Any) -> Iterable[tuple[bool, str]]:
    yield type(model).__qualname__ == "VisionTransformer", "changes timm's VisionTransformer"
    yield type(model.patch_embed).__qualname__ == "PatchEmbed", "has a hybrid patch embedding"
    yield model.attn_pool is None, f"pools by attention ({model.global_pool!r})"
    yield model.global_pool in ("token", "avg"), f"pools by {model.global_pool!r}"
    yield not model.pool_include_prefix, "averages its class token too"
    yield not model.dynamic_img_size, "resizes its positions (dynamic_img_size)"


def _timm_block(block: Any, scan: Scan) -> Block:
    _require(block, scan, _timm_block_limits(block))
    attention, options = block.attn, scan.options
    return Block(
        (_part(block, "norm1", scan), _part(block, "norm2", scan)),
        Attention(
            plain_linear(attention.qkv.weight, attention.qkv.bias, options),
            _part(block, "attn.proj", scan),
            attention.num_heads, attention.q_norm, attention.k_norm,
        ),
        nn.Sequential(*(_part(block, f"mlp.{name}", scan) for name in ("fc1", "act", "fc2"))),
        (_part(block, "ls1", scan), _part(block, "ls2", scan)),
    )  # fmt: skip


def _timm_block_limits(block: Any) -> Iterable[tuple[bool, str]]:
    yield type(block).__qualname__ == "Block", "is another block than timm's Block"
    kinds = tuple(type(part).__qualname__ for part in (block.attn, block.mlp))
    yield kinds == ("Attention", "Mlp"), f"is made of {' and '.join(kinds)}"
    yield isinstance(block.attn.norm, nn.Identity), "normalises what attention found"
    yield block.attn.gate is None, "gates its attention"
    yield isinstance(block.mlp.norm, nn.Identity), "has a norm in its MLP"


@rule(_TORCHVISION)
def _torchvision(model: Any, scan: Scan) -> nn.Module:
    kind = type(model).__qualname__
    _require(model, scan, [(kind == "VisionTransformer", "changes torchvision's")])
    names = ("mlp.0", "mlp.1", "mlp.3")
    blocks = [
        _mha_block(block, scan.below(f"encoder.layers.{name}"), "self_attention", names)
        for name, block in model.encoder.layers.named_children()
    ]
    return _tower(
        model, scan, patch="conv_proj", tokens=model.class_token[0],
        position=model.encoder.pos_embedding[0],
        blocks=blocks,
        norm="encoder.ln", pool="token", head="heads",
    )  # fmt: skip


@rule(_OPEN_CLIP)
def _open_clip(model: Any, scan: Scan) -> nn.Module:
    _require(model, scan, _open_clip_limits(model))
    last = "norm_pooled" if model.final_ln_after_pool else "norm"
    names = ("mlp.c_fc", "mlp.gelu", "mlp.c_proj")
    blocks = [
        _mha_block(block, scan.below(f"transformer.resblocks.{i}"), "attn", names)
        for i, block in enumerate(model.transformer.resblocks)
    ]
    return _tower(
        model, scan, patch="conv1", tokens=model.class_embedding[None],
        position=model.positional_embedding, norm_pre="ln_pre",
        blocks=blocks,
        pool="token" if model.pool_type == "tok" else "avg", head=_projection(model, scan),
        **{last: "ln_post"},
    )  # fmt: skip


def _open_clip_limits(model: Any) -> Iterable[tuple[bool, str]]:
    yield type(model).__qualname__ == "VisionTransformer", "changes open_clip's VisionTransformer"
    yield model.attn_pool is None, "pools by attention"
    yield model.pool_type in ("tok", "avg"), f"pools by {model.pool_type!r}"
    yield not model.output_tokens, "returns its tokens too (output_tokens)"
    for block in model.transformer.resblocks:
        kind = type(block).__qualname__
        yield kind == "ResidualAttentionBlock", f"is made of {kind}"


def _projection(model: Any, scan: Scan) -> nn.Module:
    if model.proj is None:
        return nn.Identity()
    return bcos_linear(model.proj.mT.contiguous(), None, scan.options)


def _mha_block(block: Any, scan: Scan, attention: str, mlp: tuple[str, ...]) -> Block:
    """A block around torch's MultiheadAttention."""
    inner = getattr(block, attention)
    _require(inner, scan.below(attention), _mha_limits(inner))
    scales = [
        _part(block, name, scan) if hasattr(block, name) else nn.Identity()
        for name in ("ls_1", "ls_2")
    ]
    return Block(
        (_part(block, "ln_1", scan), _part(block, "ln_2", scan)),
        Attention(
            plain_linear(inner.in_proj_weight, inner.in_proj_bias, scan.options),
            _part(block, f"{attention}.out_proj", scan), inner.num_heads,
        ),
        nn.Sequential(*(_part(block, name, scan) for name in mlp)),
        (scales[0], scales[1]),
    )  # fmt: skip


def _mha_limits(attention: Any) -> Iterable[tuple[bool, str]]:
    yield attention.in_proj_weight is not None, "has keys or values of other widths"
    yield attention.bias_k is None and not attention.add_zero_attn, "adds keys of its own"


def _tower(model: nn.Module, scan: Scan, **parts: Any) -> VisionTower:
    """A tower of the named parts; those that are paths in the model are converted."""
    for name in ("patch_norm", "norm_pre", "norm", "norm_pooled"):
        path = parts.get(name)
        parts[name] = nn.Identity() if path is None else _part(model, path, scan)
    for name in ("patch", "head"):
        if isinstance(parts[name], str):
            parts[name] = _part(model, parts[name], scan)
    if scan.options.position == "drop":
        parts["position"] = None
    parts["head_before_pool"] = _head_first(model, scan, parts)
    return VisionTower(TowerParts(**parts))


def _head_first(model: nn.Module, scan: Scan, parts: dict[str, Any]) -> bool:
    wanted = scan.options.head_before_pool
    if wanted is False:
        return False
    possible = parts["pool"] == "avg" and isinstance(parts["norm_pooled"], nn.Identity)
    if wanted and not possible:
        raise scan.refusal(
            model, "reads its answer from one token, or has a norm between pooling and head",
            "Convert with head_before_pool=None.",
        )  # fmt: skip
    return possible


def _part(model: nn.Module, path: str, scan: Scan) -> nn.Module:
    return converted(model.get_submodule(path), scan.below(path))


def _require(module: nn.Module, scan: Scan, limits: Iterable[tuple[bool, str]]) -> None:
    for fine, why in limits:
        if not fine:
            raise scan.refusal(module, f"{why}, which has no B-cos form here")
