"""Adaptive gradient clipping: no unit's gradient is long beside the unit's weights.

Source: Brock et al. 2021 (arXiv 2102.06171), equation 3. B-cos networks are trained with it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

FACTOR, EPS = 0.01, 1e-3


@torch.no_grad()
def clip_adaptively_(
    parameters: Iterable[Tensor], *, factor: float = FACTOR, eps: float = EPS
) -> None:
    """Shorten gradients to `factor` times the length of their weights, unit by unit.

    A unit is a row of a matrix, a filter of a convolution, or a whole vector. Weights shorter
    than `eps` count as `eps`, so that units that start at 0 can learn.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        limits = _lengths(parameter).clamp_min(eps) * factor
        shares = limits / _lengths(parameter.grad).clamp_min(1e-6)
        parameter.grad.mul_(shares.clamp_max(1.0))


def _lengths(tensor: Tensor) -> Tensor:
    if tensor.squeeze().dim() <= 1:
        return torch.linalg.vector_norm(tensor)
    axes = tuple(range(1, tensor.dim()))
    return torch.linalg.vector_norm(tensor, dim=axes, keepdim=True)
