"""Schedules: hand-computed values, edges, and that nothing is remembered."""

import math

import pytest

from dncbm.errors import InvalidInput
from dncbm.training import schedules


def test_constant_is_the_same_at_every_step() -> None:
    at = schedules.constant(0.3)
    assert [at(0), at(10**9)] == [0.3, 0.3]


@pytest.mark.parametrize(
    ("step", "value"),
    [
        (0, 1.0),
        (25, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))),
        (50, 0.55),
        (100, 0.1),
        (999, 0.1),
    ],
)
def test_cosine_without_warmup(step: int, value: float) -> None:
    """Start, an eighth of the circle, half way, end, and beyond the end."""
    assert schedules.cosine(1.0, 0.1, 100)(step) == pytest.approx(value)


def test_cosine_warms_up_from_a_first_step_that_is_not_zero() -> None:
    """Four warm-up steps rise by quarters; the next step has the peak."""
    at = schedules.cosine(2.0, 0.0, 10, warmup=4)
    assert [at(step) for step in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_cosine_may_rise() -> None:
    """A start below the end is a rising schedule."""
    at = schedules.cosine(0.0, 1.0, 10)
    values = [at(step) for step in range(12)]
    assert values == sorted(values)
    assert values[-1] == 1.0


def test_schedules_remember_nothing() -> None:
    """Steps asked in any order give the same values."""
    at = schedules.cosine(1.0, 0.0, 20, warmup=5)
    forwards = [at(step) for step in range(25)]
    assert [at(step) for step in reversed(range(25))] == forwards[::-1]


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (5, 5), (5, 9), (5, -1)])
def test_cosine_needs_room_after_the_warmup(steps: int, warmup: int) -> None:
    with pytest.raises(InvalidInput, match=r"0 <= warmup < steps"):
        schedules.cosine(1.0, 0.0, steps, warmup)


@pytest.mark.parametrize("schedule", [schedules.constant(1.0), schedules.cosine(1.0, 0.0, 5)])
def test_a_negative_step_is_refused(schedule: schedules.Schedule) -> None:
    with pytest.raises(InvalidInput, match="got -1"):
        schedule(-1)


def test_held_rises_stays_and_falls() -> None:
    schedule = schedules.held(2.0, 20, warmup=4, decay=0.25)
    assert [schedule(step) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert [schedule(step) for step in (14, 15, 16, 18, 19, 20, 99)] == pytest.approx(
        [2.0, 2.0, 1.6, 0.8, 0.4, 0.0, 0.0]
    )
    assert schedules.held(2.0, 20)(0) == 2.0


@pytest.mark.parametrize(("steps", "warmup", "decay"), [(3, 3, 0.2), (3, -1, 0.2), (3, 1, 0.0)])
def test_held_needs_room_and_a_decay(steps: int, warmup: int, decay: float) -> None:
    with pytest.raises(InvalidInput, match="held schedule needs"):
        schedules.held(1.0, steps, warmup, decay)
