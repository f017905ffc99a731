"""Schedules: values by hand, parity with lightly, and what is refused."""

import logging
import math

import pytest
import torch

from dncbm.contrastive.temperature import (
    Constant,
    Cosine,
    Learnable,
    Linear,
    PerSample,
    Random,
    Swing,
    TemperatureSchedule,
    tell_length,
)
from dncbm.contrastive.written import read_schedule
from dncbm.errors import InvalidInput


def test_a_cosine_begins_high_and_is_low_after_half_a_period() -> None:
    wave = Cosine(0.1, 1.0, 400)
    assert wave(0) == 1.0
    assert wave(200) == pytest.approx(0.1, abs=1e-15)
    assert wave(400) == pytest.approx(1.0)
    assert wave(100) == pytest.approx(0.55)
    assert wave(50) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert Cosine(0.1, 1.0, 400, phase=0.5)(0) == pytest.approx(0.1)
    assert Cosine(0.1, 1.0, 400, phase=0.25)(0) == pytest.approx(0.55)


def test_a_cosine_is_the_papers_with_twice_its_half_period() -> None:
    """τ(e) = τ_min + (τ_max − τ_min)/2 (1 + cos(π e / t_max))."""
    wave = Cosine(0.1, 1.0, 2 * 200)
    for e in range(1, 2000, 7):
        wanted = 0.1 + 0.5 * (1.0 - 0.1) * (1 + math.cos(math.pi * e / 200))
        assert wave(e) == pytest.approx(wanted, abs=1e-12)


def test_a_cosine_equals_lightlys() -> None:
    scheduler = pytest.importorskip("lightly.utils.scheduler")
    for low, high, period in ((0.1, 1.0, 400), (0.07, 0.5, 33)):
        wave = Cosine(low, high, period)
        for step in range(0, 1200, 11):
            wanted = scheduler.cosine_schedule(step, 1200, high, low, period=period)
            assert wave(step) == pytest.approx(wanted, abs=1e-12)


def test_a_line_stands_at_its_end() -> None:
    line = Linear(1.0, 0.2, 10)
    assert [line(0), line(5), line(10), line(99)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_random_values_are_of_the_seed_and_the_period() -> None:
    draws = Random(0.1, 1.0, period=5, seed=3)
    values = [draws(step) for step in range(50)]
    assert values == [Random(0.1, 1.0, 5, 3)(step) for step in range(50)]
    assert len(set(values)) == 10
    assert values[0] == values[4] != values[5]
    assert all(0.1 <= value <= 1.0 for value in values)
    assert values != [Random(0.1, 1.0, 5, 4)(step) for step in range(50)]


def test_a_swing_is_zero_in_the_mean() -> None:
    """MM-TS: α/2 cos(2π step / period)."""
    swing = Swing(0.08, 10)
    for step in range(30):
        assert swing(step) == pytest.approx(0.04 * math.cos(2 * math.pi * step / 10), abs=1e-15)
    assert sum(swing(step) for step in range(10)) == pytest.approx(0, abs=1e-15)


def test_shifts_are_linear_in_the_size_of_the_cluster() -> None:
    both = PerSample(Swing(0.08, 10))
    found = both.shifts([1, 11, 21])
    torch.testing.assert_close(found, torch.tensor([0.05, 0.125, 0.20]))
    assert both.lowest == pytest.approx(0.01)
    assert both(0) == pytest.approx(0.04)
    assert both.shifts([4, 4]).tolist() == pytest.approx([0.125, 0.125])
    with pytest.raises(InvalidInput, match="at least 1"):
        both.shifts([0, 3])
    with pytest.raises(InvalidInput, match="at least 1"):
        both.shifts([])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(0.0), lambda: Constant(-1.0), lambda: Constant(math.nan),
        lambda: Constant(math.inf), lambda: Cosine(0.0, 1.0, 10), lambda: Cosine(-0.1, 1.0, 10),
        lambda: Cosine(1.0, 0.1, 10), lambda: Cosine(0.1, 1.0, 0),
        lambda: Cosine(0.1, 1.0, 10, math.nan), lambda: Linear(1.0, 0.0, 10),
        lambda: Linear(0.0, 1.0, 10), lambda: Linear(1.0, 0.1, -1), lambda: Random(0.0, 1.0, 5),
        lambda: Random(0.1, 1.0, 0), lambda: Random(1.0, 0.1, 5), lambda: Learnable(0.0),
        lambda: Learnable(0.005, 0.01), lambda: Swing(-0.1, 10), lambda: Swing(0.1, 0),
        lambda: PerSample(Swing(0.1, 10)), lambda: PerSample(Constant(0.1), rare=-0.1),
    ],
)  # fmt: skip
def test_what_is_not_above_zero_is_refused_when_it_is_made(make: object) -> None:
    with pytest.raises(InvalidInput, match="rule"):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "schedule", [Constant(1.0), Cosine(0.1, 1, 9), Linear(1, 2, 3), Random(1, 2, 3), Learnable(),
                 Swing(0.1, 3)],
)  # fmt: skip
def test_steps_count_from_zero(schedule: TemperatureSchedule) -> None:
    assert isinstance(schedule, TemperatureSchedule)
    assert schedule.length >= 0
    assert schedule(3) >= schedule.lowest
    with pytest.raises(InvalidInput, match="counts from 0"):
        schedule(-1)


def test_a_schedule_longer_than_the_training_is_cut_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        tell_length(Cosine(0.1, 1.0, 100), 100)
        assert not caplog.records
        tell_length(Cosine(0.1, 1.0, 400), 201)
    assert "the last value is 0.1" in caplog.text


def test_schedules_are_read() -> None:
    def read(text: str) -> TemperatureSchedule:
        return read_schedule(text, steps=100, per_epoch=20, seed=5)

    assert read("0.2") == read("constant:0.2") == Constant(0.2)
    assert read("cosine:0.1:1.0") == read("cosine:1.0:0.1") == Cosine(0.1, 1.0, 100)
    assert read("cosine:0.1:1.0:period=40:phase=0.5") == Cosine(0.1, 1.0, 40, 0.5)
    assert read("cosine:0.1:1.0:period=2epochs") == Cosine(0.1, 1.0, 40)
    assert read("cosine:0.1:1.0:periods=5") == Cosine(0.1, 1.0, 20)
    assert read("linear:1.0:0.1") == Linear(1.0, 0.1, 100)
    assert read("linear:1.0:0.1:steps=3epochs") == Linear(1.0, 0.1, 60)
    assert read("random:0.1:1.0") == Random(0.1, 1.0, 20, 5)
    assert read("learnable") == Learnable()
    assert read("learnable:0.1") == Learnable(0.1)
    assert read("swing:0.08") == Swing(0.08, 20)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "nan", "cosine", "cosine:0.1", "cosine:0:1", "cosine:a:b", "warm:1",
             "cosine:0.1:1:period=0", "cosine:0.1:1:periods=0", "cosine:0.1:1:length=3",
             "cosine:0.1:1:period=x", "constant:0.1:0.2", "linear:1:0", "0.1:period=3"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="rule|Forms"):
        read_schedule(text, steps=100, per_epoch=20)
