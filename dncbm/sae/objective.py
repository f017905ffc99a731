"""One batch through the autoencoder and its loss, for every variant."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dncbm.sae.activations import Activation, ReLU, Selecting
from dncbm.sae.active import ActiveCodes, choose, decode_active
from dncbm.sae.config import SaeConfig
from dncbm.sae.gates import Gated, JumpReLU
from dncbm.sae.levels import Levels, nested_reconstructions
from dncbm.sae.loss import reconstruction_per_row
from dncbm.sae.model import SaeModel
from dncbm.sae.products import Products
from dncbm.training.workers import ALONE, Workers


class Losses(NamedTuple):
    """Terms of one step's loss, unweighted, and their weighted sum.

    Means over the rows of all workers; each worker holds its own rows' part of every mean.
    """

    reconstruction: Float[Tensor, ""]
    """Weighted mean over levels; with the gate's own reconstruction for `gated`."""
    sparsity: Float[Tensor, ""]
    """Mean over rows of the sum of codes (of open gates), or of the number of active codes."""
    auxiliary: Float[Tensor, ""]
    total: Float[Tensor, ""]


class Encoder(NamedTuple):
    """Pre-activations are `inputs @ weight.T + bias`."""

    inputs: Float[Tensor, "n d"]
    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, "c"]


class BatchCodes(NamedTuple):
    """What the loss and the counters need to know of a batch."""

    reconstructions: Float[Tensor, "n levels d"]
    """Of the standardised rows, one per level; the last is the model's."""
    sparsity: Float[Tensor, ""]
    """Sum over rows of what the variant's penalty measures: its codes, or how many are active."""
    fired: Int[Tensor, "c"]
    """In how many rows each concept is active."""
    gate: Float[Tensor, "n d"] | None = None
    """What a Gated model's gate reconstructs alone, through the frozen dictionary."""


def batch_codes(
    model: SaeModel,
    standardized: Float[Tensor, "n d"],
    dictionary: Float[Tensor, "c d"],
    *,
    products: Products,
    levels: Levels | None = None,
) -> BatchCodes:
    """Codes and reconstructions of standardised rows, differentiable in every parameter.

    Args:
        model: its encoder and biases.
        standardized: rows as the model sees them.
        dictionary: unit rows to decode with.
        products: precision and memory of the dense products.
        levels: nested reconstructions, for activations that choose entries.
    """
    encoder = encoder_parts(model, standardized)
    activation = model.activation
    pre = products.pre_activations(*encoder)
    if isinstance(activation, Selecting):
        with torch.no_grad():
            positions = activation.select(pre)
        if positions is not None:
            chosen = choose(pre, positions, *encoder)
            return _sparse(model, activation, chosen, dictionary, levels)
    return _dense(model, pre, encoder, dictionary, products)


def encoder_parts(model: SaeModel, standardized: Float[Tensor, "n d"]) -> Encoder:
    """The encoder of a batch, with inputs as constants.

    The pre-bias gets its gradient through the bias instead: that saves a product of n x c x d
    whose result would only be summed over rows.
    """
    pre_bias = model.pre_bias
    nothing = model.encoder_weight @ (pre_bias - pre_bias.detach())
    inputs = standardized - pre_bias.detach()
    return Encoder(inputs, model.encoder_weight, model.encoder_bias - nothing)


def _sparse(
    model: SaeModel,
    activation: Selecting,
    pre: ActiveCodes,
    dictionary: Tensor,
    levels: Levels | None,
) -> BatchCodes:
    codes = pre._replace(values=activation.codes_of(pre.values, pre.concepts))
    if levels is None:
        reconstructions = decode_active(codes, dictionary)[:, None]
    else:
        reconstructions = nested_reconstructions(codes, dictionary, levels)
    gate = None
    if isinstance(activation, Gated):
        alone = pre._replace(values=activation.gate_codes(pre.values))
        gate = decode_active(alone, dictionary.detach()) + model.pre_bias.detach()
    return BatchCodes(
        reconstructions + model.pre_bias,
        activation.sparsity(pre.values, pre.concepts),
        torch.bincount(codes.concepts[codes.values > 0], minlength=model.num_concepts),
        gate,
    )


def _dense(
    model: SaeModel, pre: Tensor, encoder: Encoder, dictionary: Tensor, products: Products
) -> BatchCodes:
    activation, gate = model.activation, None
    if isinstance(activation, ReLU):  # without tables of their own for codes and slopes
        codes, sparsity = products.rectified(pre, *encoder)
    elif isinstance(activation, JumpReLU):
        threshold = activation.log_threshold.exp()
        codes, sparsity = products.jumped(pre, *encoder, threshold, activation.bandwidth)
    else:
        pre = products.tracked(pre, *encoder)
        codes, sparsity = _elementwise(activation, pre)
    if isinstance(activation, Gated):
        alone = products.decode(activation.gate_codes(pre), dictionary.detach(), name="gate slopes")
        gate = alone + model.pre_bias.detach()
    fired = products.count_active(codes.detach())
    reconstruction = products.decode(codes, dictionary) + model.pre_bias
    return BatchCodes(reconstruction[:, None], sparsity, fired, gate)


def _elementwise(activation: Activation, pre: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(activation, Selecting):
        return activation.codes_of(pre, None), activation.sparsity(pre, None)
    codes = activation(pre)
    return codes, codes.abs().sum()


def losses(
    codes: BatchCodes,
    batch: Float[Tensor, "n d"],
    config: SaeConfig,
    *,
    rows: int,
    auxiliary: Float[Tensor, ""],
    sparsity_factor: float = 1.0,
    workers: Workers = ALONE,
) -> Losses:
    """The loss that `config` describes.

    Args:
        codes: of this worker's `batch`.
        batch: standardised rows.
        config: weights and reduction.
        rows: of all workers together.
        auxiliary: what `auxiliary_loss` gave.
        sparsity_factor: share of the penalty's weight in force, for its warm-up.
        workers: who share the batch.
    """
    levels = config.build_levels()
    weights = [1.0] if levels is None else levels.weights()
    reconstruction = batch.new_zeros(())
    for weight, level in zip(weights, codes.reconstructions.unbind(dim=1), strict=True):
        error = reconstruction_per_row(batch, level, config.reduction).sum()
        reconstruction = reconstruction + weight * error / rows
    if codes.gate is not None:
        error = reconstruction_per_row(batch, codes.gate, config.reduction).sum()
        reconstruction = reconstruction + error / rows
    sparsity = codes.sparsity / rows
    penalty = config.l1 * sparsity
    if config.activation == "jumprelu":
        penalty = config.l0 * _off_target(sparsity, config.k, workers)
    total = reconstruction + sparsity_factor * penalty + config.aux_weight * auxiliary
    return Losses(reconstruction, sparsity, auxiliary, total)


def _off_target(active: Tensor, target: int, workers: Workers) -> Tensor:
    """A worker's part of (mean active / target - 1)², which is no sum over rows.

    Its value is an even part and its gradient that of the mean over all workers' rows.
    """
    everywhere = active.detach().clone()
    workers.sum_(everywhere)
    off = everywhere / target - 1
    return off**2 / workers.size + 2 * off / target * (active - active.detach())
