"""Post-processing of maps, step by step and all together."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dncbm.attribution.chain import Chain, gaussian
from dncbm.errors import InvalidInput
from tests.oracles import attribution_evaluation as oracle


def _maps() -> Tensor:
    return torch.randn(
        2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )  # fmt: skip


@pytest.mark.parametrize("side", [1, 3, 5, 9])
def test_the_gaussian_is_the_oracles(side: int) -> None:
    found = gaussian(_maps(), side)
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose(found[place], oracle.gaussian(_maps()[place].numpy(), side))


@pytest.mark.parametrize("how", ["max", "sum"])
@pytest.mark.parametrize("absolute", [False, True])
def test_all_steps_in_their_order_are_the_oracles(how: Any, absolute: bool) -> None:
    made = Chain(size=(7, 9), smooth=3, normalise=how, absolute=absolute)(_maps())
    for place in np.ndindex(2, 3):
        slow = oracle.chain(_maps()[place].numpy(), (7, 9), 3, how, absolute=absolute)
        np.testing.assert_allclose(made[place], slow, atol=1e-12)


def test_nothing_is_done_that_is_not_asked_for() -> None:
    maps = _maps()
    assert torch.equal(Chain(positive=False)(maps), maps)
    assert torch.equal(Chain()(maps), maps.clamp_min(0))
    assert torch.equal(Chain(size=(5, 4), absolute=True)(maps), maps.abs())


def test_maps_of_nothing_stay_nothing() -> None:
    for how in ("max", "sum"):
        assert not Chain(normalise=how)(-torch.ones(1, 1, 2, 2)).any()


def test_a_loss_trains_through_the_chain() -> None:
    maps = _maps().requires_grad_()
    chain = Chain(size=(8, 8), smooth=3, normalise="sum")
    assert torch.autograd.gradcheck(lambda m: chain(m)[:, :, :3].sum(), maps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 4}, "kernel is 4; the rule is odd"),
        ({"smooth": -1}, "kernel is -1"),
        ({"size": (0, 3)}, r"size \(0, 3\)"),
        ({"normalise": "mean"}, "normalise is 'mean'; the rule is 'max', 'sum' or None"),
    ],
)
def test_steps_that_do_not_exist_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Chain(**options)
