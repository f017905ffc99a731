"""Sparse codes of a batch and what is made of them; they are never spread out.

Letters: n rows, d width, c concepts, m active codes in the batch. Of a training step only the
encoder's product of n x c x d is dense. Decoder, both gradients of the decoder and the
gradients of the encoder touch m rows of length d each, so their cost grows with k, not with c.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class ActiveCodes(NamedTuple):
    """The codes of a batch in row order, the compressed form that `embedding_bag` reads."""

    values: Float[Tensor, "m"]
    concepts: Int[Tensor, "m"]
    rows: Int[Tensor, "m"]
    starts: Int[Tensor, "n"]
    """Where each row begins in the other three."""


def choose(
    pre: Float[Tensor, "n c"],
    positions: Int[Tensor, "m"],
    centred: Float[Tensor, "n d"],
    weight: Float[Tensor, "c d"],
    bias: Float[Tensor, "c"],
) -> ActiveCodes:
    """Chosen entries of `pre` = centred @ weight.T + bias, differentiable in weight and bias.

    `positions` are flat and ascending by row. The entries' values are taken from `pre`, in
    whatever precision that was computed.
    """
    rows, concepts = positions // pre.shape[1], positions % pre.shape[1]
    starts = torch.searchsorted(rows, torch.arange(len(pre), device=rows.device))
    entries = pre.flatten()[positions].to(weight.dtype)
    values: Tensor = _Entries.apply(centred, weight, bias, entries, concepts, rows)
    return ActiveCodes(values, concepts, rows, starts)


def decode_active(codes: ActiveCodes, dictionary: Float[Tensor, "c d"]) -> Float[Tensor, "n d"]:
    """Each row's sum of dictionary rows weighted by its codes; without the pre-bias."""
    return decode_bags(codes.concepts, codes.values, codes.starts, dictionary)


def decode_bags(
    concepts: Int[Tensor, "m"],
    values: Float[Tensor, "m"],
    starts: Int[Tensor, "b"],
    dictionary: Float[Tensor, "c d"],
) -> Float[Tensor, "b d"]:
    """Sums of weighted dictionary rows over consecutive entries that begin at `starts`."""
    return functional.embedding_bag(
        concepts, dictionary, starts, mode="sum", per_sample_weights=values
    )


class _Entries(torch.autograd.Function):
    """Already known entries of `centred @ weight.T + bias`, with the gradient of just those."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        centred, weight, _, entries, concepts, rows = arguments
        ctx.save_for_backward(centred, concepts, rows)
        ctx.num_concepts = len(weight)
        return entries

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        centred, concepts, rows = ctx.saved_tensors
        # The transposed product is an embedding bag too: concepts are the bags, rows the table.
        order = torch.argsort(concepts, stable=True)
        count = torch.bincount(concepts, minlength=ctx.num_concepts)
        rows, slopes, starts = rows[order], gradients[0][order], count.cumsum(0) - count
        into_weight = decode_bags(rows, slopes, starts, centred)
        # A bag as well, of ones: index_add would not repeat its bits on a GPU.
        into_bias = decode_bags(rows, slopes, starts, centred.new_ones(len(centred), 1))
        return None, into_weight, into_bias[:, 0], None, None, None
