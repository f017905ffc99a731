"""Losses against loops in float64, lightly's NT-Xent, and large batches in blocks."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dncbm.contrastive import scheduled
from dncbm.contrastive.scheduled import ClipLoss, NTXentLoss, ScheduledLoss, SigLipLoss
from dncbm.contrastive.temperature import Cosine, Learnable, PerSample, Swing
from dncbm.errors import InvalidInput
from tests.oracles import contrastive_schedules as oracles


@pytest.fixture
def sides() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(4)
    first, second = torch.randn(2, 7, 5, generator=draw, dtype=torch.float64)
    return first.requires_grad_(), (first.detach() + 0.5 * second).requires_grad_()


ORACLES: dict[type[ScheduledLoss], Callable[..., float]] = {
    NTXentLoss: oracles.nt_xent, ClipLoss: oracles.clip,
    SigLipLoss: lambda *given: oracles.siglip(*given, bias=-10.0),
}  # fmt: skip


@pytest.mark.parametrize("kind", ORACLES)
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_losses_equal_the_loop(kind: Any, temperature: float, sides: Any) -> None:
    found = kind(temperature)(*sides)
    rows = [side.detach().numpy() for side in sides]
    wanted = ORACLES[kind](*rows, np.full(7, temperature))
    assert found.item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("kind", ORACLES)
def test_each_row_has_its_own_temperature(kind: Any, sides: Any) -> None:
    schedule = PerSample(Swing(0.08, 10))
    loss = kind(schedule=schedule)
    loss.set_step(3)
    sizes = [1, 5, 9, 9, 2, 30, 7]
    shift = schedule.shifts(sizes).double()
    wanted = ORACLES[kind](*(side.detach().numpy() for side in sides), schedule(3) + shift.numpy())
    assert loss(*sides, shift).item() == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(InvalidInput, match="no shift"):
        loss(*sides)


@pytest.mark.parametrize("kind", ORACLES)
def test_gradients_are_right(kind: Any, sides: Any) -> None:
    shift = torch.linspace(0, 0.1, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: kind(0.3)(a, b, shift), sides)


@pytest.mark.parametrize("kind", ORACLES)
def test_blocks_equal_the_whole(kind: Any, sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = kind(schedule=Learnable(0.2))
    whole = loss(*sides)
    inputs = [*sides, loss.log_temperature]
    wanted = torch.autograd.grad(whole, inputs)
    monkeypatch.setattr(scheduled, "BLOCK", 3)
    parts = loss(*sides)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)
    for mine, theirs in zip(torch.autograd.grad(parts, inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_nt_xent_equals_lightlys(temperature: float, sides: Any) -> None:
    """Loss and gradients; the signature is the same."""
    theirs = pytest.importorskip("lightly.loss").NTXentLoss(
        temperature=temperature, gather_distributed=False
    )
    mine = NTXentLoss(temperature=temperature, gather_distributed=False)
    torch.testing.assert_close(mine(*sides), theirs(*sides), rtol=1e-12, atol=0)
    wanted = torch.autograd.grad(theirs(*sides), sides)
    for one, other in zip(torch.autograd.grad(mine(*sides), sides), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_the_temperature_may_be_assigned_or_scheduled(sides: Any) -> None:
    assigned, by_step = NTXentLoss(0.5), NTXentLoss(schedule=Cosine(0.1, 1.0, 8))
    assert by_step.temperature == 1.0
    for step in (0, 2, 4):
        by_step.set_step(step)
        assigned.temperature = by_step.temperature
        assert by_step.temperature == Cosine(0.1, 1.0, 8)(step)
        assert by_step(*sides).item() == assigned(*sides).item()
    assert "schedule=Cosine" in repr(by_step)


def test_a_learned_temperature_moves_and_has_a_floor(sides: Any) -> None:
    loss = NTXentLoss(schedule=Learnable(0.5))
    assert loss.log_temperature is not None
    loss(*sides).backward()
    assert loss.log_temperature.grad is not None
    assert float(loss.log_temperature.grad) != 0
    loss.log_temperature.data.fill_(math.log(1e-6))
    loss.set_step(1)
    loss.log_temperature.grad = None
    value = loss(*sides)
    assert value.item() == pytest.approx(NTXentLoss(0.01)(*sides).item(), rel=1e-6)
    value.backward()  # from the floor a way leads back up
    assert loss.log_temperature.grad is not None
    assert float(loss.log_temperature.grad) != 0


def test_what_is_wrong_is_told(sides: Any) -> None:
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(InvalidInput, match="above 0"):
            NTXentLoss(value)
    loss = NTXentLoss(0.5)
    loss.temperature = 0.0
    with pytest.raises(InvalidInput, match="above 0"):
        loss(*sides)
    with pytest.raises(InvalidInput, match="memory bank"):
        NTXentLoss(0.5, 1024)
    with pytest.raises(InvalidInput, match="PerSample"):
        ClipLoss(schedule=Swing(0.1, 10))
    with pytest.raises(InvalidInput, match="above 0"):
        NTXentLoss(0.1)(*sides, torch.full((7,), -0.2))
    with pytest.raises((InvalidInput, TypeError)):
        NTXentLoss(0.1)(sides[0], sides[1][:3])
