import math

import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.sae.alignment import cknna
from tests.oracles import sae_metrics as oracle


@pytest.mark.parametrize("neighbours", [2, 4, 15])
def test_equals_the_literal_formula(neighbours: int) -> None:
    first = torch.randn(16, 5, dtype=torch.float64)
    second = torch.relu(first @ torch.randn(5, 8, dtype=torch.float64) - 0.5)
    expected = oracle.cknna(first.numpy(), second.numpy(), neighbours)
    assert cknna(first, second, neighbours=neighbours) == pytest.approx(expected, rel=1e-9)


def test_rotation_and_scale_change_nothing() -> None:
    first = torch.randn(30, 4, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    assert cknna(first, 3 * first @ turn) == pytest.approx(1.0, rel=1e-9)
    assert cknna(first, torch.randn(30, 4, dtype=torch.float64)) < 0.5


def test_rows_without_codes_have_no_alignment() -> None:
    assert math.isnan(cknna(torch.randn(9, 3), torch.zeros(9, 4)))


@pytest.mark.parametrize(("n", "k"), [(3, 2), (9, 1)])
def test_what_has_no_value_is_refused(n: int, k: int) -> None:
    with pytest.raises(InvalidInput, match="at least 4"):
        cknna(torch.randn(n, 3), torch.randn(n, 3), neighbours=k)
