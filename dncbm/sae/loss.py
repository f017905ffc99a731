"""Loss terms of sparse autoencoders, each a mean over the rows of a batch."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.sae.products import Products
from dncbm.training.workers import ALONE, Workers

Reduction = Literal["mean", "sum"]
"""Over the width d. `mean` is what the Discover-then-Name code computes, `sum` what its
paper writes; at width d they differ by the factor d against the sparsity term."""


def reconstruction_per_row(
    target: Float[Tensor, "n d"], reconstruction: Float[Tensor, "n d"], reduction: Reduction
) -> Float[Tensor, "n"]:
    """Squared error of each row, averaged or summed over the width."""
    squared = (target - reconstruction).square()
    return squared.mean(dim=-1) if reduction == "mean" else squared.sum(dim=-1)


def sparsity_per_row(codes: Float[Tensor, "n c"]) -> Float[Tensor, "n"]:
    """L1 norm of each row of codes: always a sum over concepts."""
    return codes.abs().sum(dim=-1)


def auxiliary_loss(
    residual: Float[Tensor, "n d"],
    candidates: Float[Tensor, "n dead"],
    directions: Float[Tensor, "dead d"],
    k: int,
    *,
    products: Products | None = None,
    workers: Workers = ALONE,
) -> Float[Tensor, ""]:
    """How badly the dead concepts explain the residual: 0 perfectly, 1 not at all.

    AuxK of Gao et al. (2406.04093, appendix A.2): the k largest pre-activations among dead
    concepts (`candidates`, with their dictionary rows `directions`) reconstruct the residual,
    which itself gets no gradient; the squared error is divided by the residual's energy over
    the rows of all `workers`, so their parts add up. 0 where nothing is dead or nothing is left
    to explain.
    """
    target = residual.detach()
    energy = target.square().sum()
    workers.sum_(energy)
    if not len(directions) or not bool(energy > 0):
        return residual.new_zeros(())
    values, indices = candidates.topk(min(k, candidates.shape[-1]), dim=-1, sorted=False)
    codes = torch.zeros_like(candidates).scatter(-1, indices, values.relu())
    explained = (products or Products()).decode(codes, directions, name="dead slopes")
    return (target - explained).square().sum() / energy
