"""Resampling of dead concepts, as in the code of Discover-then-Name.

A concept that never fired in the window gets a new life: inputs are drawn without
replacement with probability proportional to their squared loss; the dictionary row becomes
the drawn input at unit length (the pre-bias is not subtracted), the encoder row the same
direction with 0.2 times the mean length of the living encoder rows, the encoder bias 0, gates
start anew, and Adam forgets these rows and no others.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from dncbm.sae.gates import Gated, JumpReLU
from dncbm.sae.loss import Reduction, reconstruction_per_row, sparsity_per_row
from dncbm.sae.model import SaeModel
from dncbm.sae.rows import CHUNK, EmbeddingRows

ENCODER_SCALE = 0.2


@torch.no_grad()
def draw_inputs(
    model: SaeModel,
    rows: EmbeddingRows,
    *,
    count: int,
    candidates: int,
    l1: float,
    reduction: Reduction,
    generator: torch.Generator,
) -> Float[Tensor, "m d"]:
    """Up to `count` standardised inputs, drawn by squared loss.

    Args:
        model: whose loss counts.
        rows: training embeddings.
        count: how many inputs are wanted (the number of dead concepts).
        candidates: rows whose loss is computed; the paper's 819,200 is an upper bound, so
            smaller data takes part with all its rows instead of failing.
        l1: weight of the sparsity term in the loss.
        reduction: of the reconstruction term.
        generator: source of randomness.

    Returns:
        Fewer than `count` where fewer rows have a loss above zero.
    """
    indices = torch.randperm(len(rows), generator=generator)[: min(candidates, len(rows))]
    was_training = model.training
    model.eval()  # BatchTopK would learn its threshold from these rows
    try:
        losses = torch.cat(
            [_loss_per_row(model, rows, part, l1, reduction) for part in indices.split(CHUNK)]
        )
    finally:
        model.train(was_training)
    weights = draw_weights(losses)
    available = min(count, int((weights > 0).sum()))
    if available == 0:
        return torch.empty(0, model.embed_dim)
    # torch.multinomial takes at most 2^24 categories; the paper's 819,200 is far below.
    drawn = torch.multinomial(weights, available, generator=generator)
    device = model.input_mean.device
    return model.standardize(rows.gather(indices[drawn]).to(device))


def draw_weights(losses: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Probabilities proportional to squared losses; sums to 1 unless all losses are 0."""
    squares = losses.double().square()
    return (squares / squares.sum().clamp_min(1e-300)).cpu()


@torch.no_grad()
def revive(
    model: SaeModel,
    optimizer: torch.optim.Optimizer,
    dead: Bool[Tensor, "c"],
    inputs: Float[Tensor, "m d"],
) -> Int64[Tensor, "m"]:
    """Give the first m dead concepts the directions of `inputs`; returns their indices."""
    alive_rows = model.encoder_weight[~dead] if bool((~dead).any()) else model.encoder_weight
    length = ENCODER_SCALE * alive_rows.norm(dim=-1).mean()
    concepts = dead.nonzero().flatten()[: len(inputs)]
    directions = functional.normalize(inputs, dim=-1).to(model.dictionary.dtype)
    model.dictionary[concepts] = directions
    model.encoder_weight[concepts] = directions * length
    model.encoder_bias[concepts] = 0.0
    changed = [model.dictionary, model.encoder_weight, model.encoder_bias]
    if isinstance(model.activation, JumpReLU | Gated):
        changed += model.activation.restart(concepts)
    for parameter in changed:
        _forget(optimizer, parameter, concepts)
    return concepts


def _forget(optimizer: torch.optim.Optimizer, parameter: Tensor, concepts: Tensor) -> None:
    state = optimizer.state.get(parameter, {})
    for name in ("exp_avg", "exp_avg_sq"):
        if name in state:
            state[name][concepts] = 0.0


def _loss_per_row(
    model: SaeModel, rows: EmbeddingRows, indices: Tensor, l1: float, reduction: Reduction
) -> Tensor:
    inputs = model.standardize(rows.gather(indices).to(model.input_mean.device))
    codes = model.activation(model.pre_activations(inputs))
    error = reconstruction_per_row(inputs, model.decode_standardized(codes), reduction)
    return error + l1 * sparsity_per_row(codes)
