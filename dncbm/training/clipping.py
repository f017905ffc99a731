"""Adaptive gradient clipping: no unit may change by more than a share of its length at once."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

FACTOR = 0.01
"""Longest gradient of a unit, as a share of the unit's length (Brock et al. 2021, B-cos v2)."""
_EPS = 1e-3
"""Length that a unit is taken to have at least, so that one of zeros can grow."""


@torch.no_grad()
def clip_adaptively_(parameters: Iterable[Tensor], factor: float = FACTOR) -> None:
    """Shorten the gradient of each unit to `factor` times the unit's length, where it is longer.

    Brock et al. 2021 (arXiv:2102.06171), eq. 3: g_i ← λ max(|w_i|, ε) / |g_i| · g_i. A unit is
    what makes one output: a row of a matrix, a filter of a convolution. Scalars and vectors
    (biases, scales) are one unit each.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            longest = factor * _lengths(parameter).clamp_min(_EPS)
            found = _lengths(gradient)
            gradient.mul_(torch.where(found > longest, longest / found, 1.0))


def _lengths(values: Tensor) -> Float[Tensor, "..."]:
    """Length of each unit, with axes of size 1 in the place of its own."""
    axes = tuple(range(1, values.ndim)) if values.ndim > 1 else None
    return torch.linalg.vector_norm(values, dim=axes, keepdim=values.ndim > 1)
