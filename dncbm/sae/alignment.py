"""Whether rows that are near each other in one representation are near in another: CKNNA."""

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.errors import InvalidInput

NEIGHBOURS = 10
"""k of the papers."""
FEWEST = 4
"""Rows that the unbiased estimate needs."""


def cknna(
    first: Float[Tensor, "n d"], second: Float[Tensor, "n c"], *, neighbours: int = NEIGHBOURS
) -> float:
    """Centred kernel nearest-neighbour alignment of two representations of the same rows.

    Huh et al. 2024 (arXiv 2405.07987, appendix A) as their code computes it and MSAE uses it:
    the unbiased HSIC (Song et al. 2012, eq. 5) of two linear kernels, of which only the pairs
    stay where both say that a row is among the other's k nearest; divided by the geometric mean
    of each kernel's own value. Theirs adds 1e-6 to the divisor, which depends on the scale of the
    rows; here there is none. Equally near rows are taken in their order.

    Args:
        first: one representation; centre it, or its mean row decides who is near.
        second: the other one. Memory and time grow with n^2: give a sample.
        neighbours: k; at most n - 1 are used.

    Returns:
        About 0 for unrelated representations, 1 for the same one up to scale and rotation. It
        falls as n grows at the same k: compare only values of one n. NaN where a
        representation has no neighbours (all rows zero).

    Raises:
        InvalidInput: fewer than four rows, different numbers of rows, or k < 2.
    """
    n = len(first)
    if n != len(second) or n < FEWEST or neighbours < 2:
        raise InvalidInput(
            f"CKNNA got {n} and {len(second)} rows and {neighbours} neighbours; it needs the same "
            f"rows twice, at least {FEWEST}, and at least 2 neighbours."
        )
    kernels = [(rows @ rows.T).double().fill_diagonal_(0) for rows in (first, second)]
    masks = [_nearest(kernel, min(neighbours, n - 1)) for kernel in kernels]
    both = masks[0] & masks[1]
    alone = [
        _hsic(kernel * mask, kernel * mask) for kernel, mask in zip(kernels, masks, strict=True)
    ]
    scale = alone[0] * alone[1]
    return _hsic(kernels[0] * both, kernels[1] * both) / scale**0.5 if scale > 0 else float("nan")


def _nearest(kernel: Float[Tensor, "n n"], count: int) -> Tensor:
    """Marks in each row the other rows of the largest entries."""
    others = kernel.clone().fill_diagonal_(-torch.inf)
    order = others.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(kernel, dtype=torch.bool).scatter_(1, order, value=True)


def _hsic(first: Float[Tensor, "n n"], second: Float[Tensor, "n n"]) -> float:
    """Unbiased HSIC of kernels with zero diagonal."""
    n = len(first)
    value = (first * second.T).sum() + first.sum() * second.sum() / ((n - 1) * (n - 2))
    value -= 2 * (first.sum(dim=0) @ second.sum(dim=1)) / (n - 2)
    return float(value) / (n * (n - 3))
