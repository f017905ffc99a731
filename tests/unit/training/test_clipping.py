import numpy as np
import pytest
import torch
from torch import nn

from dncbm.training.clipping import clip_adaptively_
from tests.oracles.bcos_loss import clipped


@pytest.mark.parametrize("shape", [(5,), (4, 3), (4, 3, 2, 2), (1, 6), (3, 1, 1, 1), (1, 1)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
def test_clipping_is_the_oracles(shape: tuple[int, ...], size: float) -> None:
    draw = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64))
    weight.data.flatten()[0] = 0.0
    gradient = torch.randn(shape, generator=draw, dtype=torch.float64) * size
    weight.grad = gradient.clone()
    clip_adaptively_([weight, nn.Parameter(torch.ones(2))], factor=0.05, eps=1e-2)
    expected = clipped(weight.detach().numpy(), gradient.numpy(), 0.05, 1e-2)
    np.testing.assert_allclose(weight.grad, expected, rtol=1e-12)


def test_weights_at_zero_can_learn() -> None:
    weight = nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.ones(2, 3)
    clip_adaptively_([weight])
    torch.testing.assert_close(weight.grad.norm(dim=1), torch.full((2,), 1e-5))
