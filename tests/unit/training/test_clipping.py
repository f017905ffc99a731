"""Adaptive clipping against plain loops over units, and its edges."""

import pytest
import torch
from torch import Tensor, nn

from dncbm.training.clipping import clip_adaptively_
from tests.oracles.clipping import clipped


def _parameter(*shape: int, length: float, draw: torch.Generator) -> nn.Parameter:
    parameter = nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64))
    parameter.grad = length * torch.randn(shape, generator=draw, dtype=torch.float64)
    return parameter


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (4, 3, 2), (4, 3, 2, 2)])
@pytest.mark.parametrize("length", [1e-5, 1e-2, 3.0])
@pytest.mark.parametrize("factor", [0.01, 0.3])
def test_it_equals_the_loop(shape: tuple[int, ...], length: float, factor: float) -> None:
    """Below, about and above the limit, for every number of axes."""
    parameter = _parameter(*shape, length=length, draw=torch.Generator().manual_seed(1))
    wanted = clipped(parameter.detach().numpy(), _gradient(parameter).numpy(), factor)
    clip_adaptively_([parameter], factor)
    torch.testing.assert_close(_gradient(parameter), torch.from_numpy(wanted), rtol=1e-12, atol=0)


def test_a_unit_of_zeros_may_grow_and_none_is_skipped() -> None:
    """A length below 0.001 counts as 0.001; no gradient and a gradient of 0 stay."""
    zeros, silent, still = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    zeros.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    still.grad = torch.zeros(2, 2)
    clip_adaptively_([zeros, silent, still])
    wanted = torch.tensor([[6e-6, 8e-6], [0.0, 0.0]])
    torch.testing.assert_close(_gradient(zeros), wanted, rtol=1e-5, atol=0)
    assert silent.grad is None
    assert not _gradient(still).any()


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
