from typing import Any

import numpy as np
import pytest
import torch

from dncbm.sae.loss import auxiliary_loss, reconstruction_per_row, sparsity_per_row
from tests.oracles import sae as oracle


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reconstruction(reduction: Any) -> None:
    x, y = _random(5, 4), _random(5, 4)
    expected = oracle.reconstruction(x.numpy(), y.numpy(), reduction)
    assert float(reconstruction_per_row(x, y, reduction).mean()) == pytest.approx(expected)


def test_the_two_reductions_differ_by_the_width() -> None:
    x, y = _random(5, 8), _random(5, 8)
    ratio = reconstruction_per_row(x, y, "sum") / reconstruction_per_row(x, y, "mean")
    np.testing.assert_allclose(ratio.numpy(), 8)


def test_sparsity_sums_over_concepts() -> None:
    codes = _random(5, 6)
    expected = oracle.sparsity(codes.numpy())
    assert float(sparsity_per_row(codes).mean()) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 9])
def test_auxiliary(k: int) -> None:
    residual, pre, dictionary = _random(5, 4), _random(5, 6), _random(6, 4)
    dead = torch.tensor([True, False, True, False, True, False])
    expected = oracle.auxiliary(residual.numpy(), pre.numpy(), dictionary.numpy(), [0, 2, 4], k)
    value = auxiliary_loss(residual, pre[:, dead], dictionary[dead], k)
    assert float(value) == pytest.approx(expected)


def test_auxiliary_moves_only_dead_concepts() -> None:
    residual = _random(5, 4).requires_grad_()
    pre, dictionary = _random(5, 6).requires_grad_(), _random(6, 4).requires_grad_()
    dead = torch.tensor([False, True, False, False, False, True])
    auxiliary_loss(residual, pre[:, dead], dictionary[dead], 2).backward()
    assert residual.grad is None
    assert pre.grad is not None
    assert dictionary.grad is not None
    assert set(dictionary.grad.abs().sum(dim=1).nonzero().flatten().tolist()) <= {1, 5}
    assert set(pre.grad.abs().sum(dim=0).nonzero().flatten().tolist()) <= {1, 5}


def test_auxiliary_is_zero_without_dead_concepts_or_residual() -> None:
    pre, dictionary = _random(5, 6), _random(6, 4)
    assert float(auxiliary_loss(_random(5, 4), pre[:, :0], dictionary[:0], 2)) == 0.0
    nothing = torch.zeros(5, 4, dtype=torch.float64)
    assert float(auxiliary_loss(nothing, pre, dictionary, 2)) == 0.0
