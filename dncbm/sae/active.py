"""One batch through the autoencoder, as training needs it; sparse codes are never spread out.

Letters: n rows, d width, c concepts, m active codes in the batch. With a selecting activation
only the encoder's product of n x c x d is dense. Decoder, both gradients of the decoder and the
gradients of the encoder touch m rows of length d each, so their cost grows with k, not with c.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from dncbm.sae.activations import Selecting
from dncbm.sae.loss import sparsity_per_row
from dncbm.sae.model import SaeModel


class BatchCodes(NamedTuple):
    """What the loss and the counters need to know of a batch."""

    reconstruction: Float[Tensor, "n d"]
    """Of the standardised rows."""
    l1: Float[Tensor, ""]
    """Mean over rows of the sum of codes."""
    fired: Int[Tensor, "c"]
    """In how many rows each concept is active."""


class ActiveCodes(NamedTuple):
    """The codes of a batch in row order, the compressed form that `embedding_bag` reads."""

    values: Float[Tensor, "m"]
    concepts: Int[Tensor, "m"]
    rows: Int[Tensor, "m"]
    starts: Int[Tensor, "n"]
    """Where each row begins in the other three."""


def batch_codes(model: SaeModel, standardized: Float[Tensor, "n d"]) -> BatchCodes:
    """Codes and reconstruction of standardised rows, differentiable in every parameter."""
    activation = model.activation
    if isinstance(activation, Selecting):
        codes = active_codes(model, activation, standardized)
        reconstruction = decode_active(codes, model.dictionary) + model.pre_bias
        l1 = codes.values.sum() / len(standardized)
        fired = torch.bincount(codes.concepts[codes.values > 0], minlength=model.num_concepts)
        return BatchCodes(reconstruction, l1, fired)
    dense = activation(model.pre_activations(standardized))
    reconstruction = model.decode_standardized(dense)
    l1 = sparsity_per_row(dense).mean()
    return BatchCodes(reconstruction, l1, (dense.detach() > 0).sum(dim=0))


def active_codes(
    model: SaeModel, activation: Selecting, standardized: Float[Tensor, "n d"]
) -> ActiveCodes:
    """The codes that the model's selecting `activation` keeps, as it would in a dense pass."""
    centred = standardized - model.pre_bias
    with torch.no_grad():
        pre = functional.linear(centred, model.encoder_weight, model.encoder_bias)
        positions: Tensor = activation.select(pre)
        rows, concepts = positions // pre.shape[1], positions % pre.shape[1]
        starts = torch.searchsorted(rows, torch.arange(len(pre), device=rows.device))
        chosen = pre.flatten()[positions].to(model.encoder_weight.dtype)
    values: Tensor = _ChosenPreActivations.apply(
        centred, model.encoder_weight, model.encoder_bias, chosen, concepts, rows, starts
    )
    return ActiveCodes(values.relu(), concepts, rows, starts)


def decode_active(codes: ActiveCodes, dictionary: Float[Tensor, "c d"]) -> Float[Tensor, "n d"]:
    """Each row's sum of dictionary rows weighted by its codes; without the pre-bias."""
    return functional.embedding_bag(
        codes.concepts, dictionary, codes.starts, mode="sum", per_sample_weights=codes.values
    )


class _ChosenPreActivations(torch.autograd.Function):
    """Already known entries of `centred @ weight.T + bias`, with the gradient of just those."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        centred, weight, _, chosen, concepts, rows, starts = inputs
        ctx.save_for_backward(centred, weight, concepts, rows, starts)
        return chosen.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        centred, weight, concepts, rows, starts = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        into_rows = functional.embedding_bag(
            concepts, weight, starts, mode="sum", per_sample_weights=gradient
        )
        # The transposed product is an embedding bag too: concepts are the bags, rows the table.
        order = torch.argsort(concepts, stable=True)
        count = torch.bincount(concepts, minlength=len(weight))
        into_weight = functional.embedding_bag(
            rows[order],
            centred,
            count.cumsum(0) - count,
            mode="sum",
            per_sample_weights=gradient[order],
        )
        # A bag as well, of ones: index_add would not repeat its bits on a GPU.
        into_bias = functional.embedding_bag(
            rows[order],
            centred.new_ones(len(centred), 1),
            count.cumsum(0) - count,
            mode="sum",
            per_sample_weights=gradient[order],
        )
        return into_rows, into_weight, into_bias[:, 0], None, None, None, None
