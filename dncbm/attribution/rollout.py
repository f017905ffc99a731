"""Attention rollout: how much of each patch reaches the output of a vision transformer.

    R = Ā_L · … · Ā_2 · Ā_1,   Ā = (mean over heads of A + I) / 2     (Abnar & Zuidema 2020, eq. 1)

It says nothing about targets: every target of an image gets the same map. Attention is watched
where it is computed, in the calling thread only: `nn.MultiheadAttention` (open_clip, torchvision),
`scaled_dot_product_attention` (timm) and softmax over keys. The network is not changed.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dncbm.attribution.evaluation import refuse_training, settled, values_of
from dncbm.attribution.layers import (
    Layer,
    Network,
    Splittable,
    layer_of,
    output_replaced,
    split_at,
    token_grid,
)
from dncbm.attribution.methods import Maps
from dncbm.bcos.explain import Targets
from dncbm.errors import InvalidInput

Read = Literal["class", "mean"]


def rollout(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    read: Read | None = None,
    create_graph: bool = False,
) -> Maps:
    """Attention rollout, class-agnostic: the same map for all targets of an image.

    Options:
        layer: attention after it counts; the map is that of its tokens.
        read: how the encoder takes its output from the tokens: the first of them, or their mean. By
            default the first where there are more tokens than patches, else the mean. Attention
            pooling at the end is seen and needs neither.

    Raises:
        InvalidInput: no attention from all tokens to all, as in convolutional networks and in
            transformers with windows.
    """
    refuse_training("rollout", create_graph)
    with torch.inference_mode(False), torch.no_grad():
        split = split_at(forward, images)
        with _Attention() as seen, _forgotten_at(forward, layer, seen):
            output = split.explain(split.features.detach().clone())
        [values] = values_of(output, settled(split, targets), len(images))
        rows, square = _rolled(seen.found, len(images))
        places = token_grid(rows.shape[-1], images.shape[-2], images.shape[-1])
        if places is None:
            raise InvalidInput(
                f"{rows.shape[-1]} tokens are no grid of patches of {tuple(images.shape[-2:])} "
                "pixels, so rollout has no map. Give images of the size that the encoder takes."
            )
        extra, grid = places
        if square:
            first = read == "class" or (read is None and extra > 0)
            rows = rows[:, :1] if first else rows
        one = rows.mean(dim=1)[:, extra:].unflatten(-1, grid)
        return one[:, None].repeat(1, values.shape[1], 1, 1)


class _Attention(TorchFunctionMode):
    """Notes attention (n, queries, keys), mean over heads, of what this thread computes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What func gives."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            asked = kwargs.get("need_weights", True)
            averaged = kwargs.get("average_attn_weights", True)
            kwargs |= {"need_weights": True, "average_attn_weights": False}
            result, weights = func(*args, **kwargs)
            self._note(weights)
            return result, (weights.mean(1) if averaged else weights) if asked else None
        result = func(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            query, key, _, *rest = args
            # attention is what it makes of the values 1 at one key and 0 at all others
            ones = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device)
            self._note(func(query, key, ones.expand(*key.shape[:-1], -1), *rest, **kwargs))
        elif name == "softmax" and result.dim() == 4:
            self._note(result)
        return result

    def _note(self, heads: Tensor) -> None:
        self.found.append(heads.detach().mean(dim=1))


def _forgotten_at(forward: Network, layer: Layer, seen: _Attention) -> AbstractContextManager[None]:
    """What was seen before a layer gave its output does not count."""
    if layer is None:
        return nullcontext()

    def forget(output: Any) -> Any:
        seen.found.clear()
        return output

    inside = getattr(forward, "network", forward) if isinstance(forward, Splittable) else forward
    return output_replaced(layer_of(inside, layer), forget)


def _rolled(found: list[Tensor], images: int) -> tuple[Float[Tensor, "n q k"], bool]:
    """The product of all attention, and whether it ends in all tokens, not in a pool of them."""
    reach: Tensor | None = None
    for place, attention in enumerate(found):
        rows, queries, keys = attention.shape
        fits = reach is None or keys == reach.shape[-2]
        pool = queries != keys and place + 1 == len(found)
        if rows != images or not fits or not (queries == keys or pool):
            raise InvalidInput(
                f"Attention {place + 1} is {queries} x {keys}, {rows} of it for {images} images; "
                "the rule of rollout is attention of all tokens of an image to all. Use grad_cam "
                "or integrated_gradients."
            )
        if not pool:
            attention = (attention + torch.eye(keys).to(attention)) / 2
        reach = attention if reach is None else attention @ reach
    if reach is None:
        raise InvalidInput(
            "No attention was seen, so there is nothing to roll out. The rule is a vision "
            "transformer, and a layer before its last block. Use grad_cam for other networks."
        )
    return reach, found[-1].shape[-2] == found[-1].shape[-1]
