"""Temperatures that change while training: pure functions of the step, checked when they are made.

A high temperature makes a contrastive loss tell groups apart (what frequent classes need), a low
one single images (what rare classes need); a schedule alternates between both tasks (Kukleva et
al. 2023, arXiv:2303.13664). One may count updates or epochs: a schedule only knows steps, and its
periods are in the same unit.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.training.seeding import generator

_log = logging.getLogger(__name__)
Number = float | int
"""Temperatures and steps: whole ones, too."""


@runtime_checkable
class TemperatureSchedule(Protocol):
    """A temperature at each step; the same step, the same value."""

    @property
    def lowest(self) -> Number:
        """No step has less."""
        ...

    @property
    def length(self) -> Number:
        """Steps after which it repeats or stands still; 0 where it never moves."""
        ...

    def __call__(self, step: Number) -> float:
        """The temperature at a step, of which 0 is the first."""
        ...


class _Still:
    """What follows no step."""

    __slots__ = ()

    @property
    def length(self) -> Number:
        """It never moves."""
        return 0.0


class _Periodic:
    """What repeats."""

    __slots__ = ()
    period: Number

    @property
    def length(self) -> Number:
        """The period."""
        return self.period


@dataclass(frozen=True, slots=True)
class Constant(_Still):
    """The same temperature at every step."""

    value: Number

    def __post_init__(self) -> None:
        _require_positive(self, value=self.value)

    @property
    def lowest(self) -> Number:
        """The value."""
        return self.value

    def __call__(self, step: Number) -> float:
        """The value."""
        _require_step(step)
        return self.value


@dataclass(frozen=True, slots=True)
class Cosine(_Periodic):
    """τ(s) = low + (high − low) (1 + cos(2π (s / period + phase))) / 2, from `high` on downwards.

    `period` is the full one: τ is low after half of it and high again at its end. Where a source
    names half of it (Kukleva et al.'s code: `t_max`), double that.
    """

    low: Number
    high: Number
    period: Number
    phase: Number = 0.0
    """Share of a period by which it is ahead: 0.5 begins at `low`."""

    def __post_init__(self) -> None:
        _require_positive(self, low=self.low, high=self.high)
        _require_ordered(self, self.low, self.high)
        _require_period(self, self.period)
        if not math.isfinite(self.phase):
            raise InvalidInput(f"The phase is {self.phase}; the rule is a share of the period.")

    @property
    def lowest(self) -> Number:
        """The low end."""
        return self.low

    def __call__(self, step: Number) -> float:
        """A point of the wave."""
        return self.low + (self.high - self.low) * _wave(step, self.period, self.phase)


@dataclass(frozen=True, slots=True)
class Linear:
    """Straight from `start` to `end` within so many steps, and `end` from there on."""

    start: Number
    end: Number
    steps: Number

    def __post_init__(self) -> None:
        _require_positive(self, start=self.start, end=self.end)
        _require_period(self, self.steps)

    @property
    def lowest(self) -> Number:
        """The lower end."""
        return min(self.start, self.end)

    @property
    def length(self) -> Number:
        """Steps until the end."""
        return self.steps

    def __call__(self, step: Number) -> float:
        """A point of the line."""
        _require_step(step)
        return self.start + (self.end - self.start) * min(1.0, step / self.steps)


@dataclass(frozen=True, slots=True)
class Random(_Periodic):
    """Uniform in [low, high], drawn anew every `period` steps; the seed fixes all draws."""

    low: Number
    high: Number
    period: Number
    seed: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, low=self.low, high=self.high)
        _require_ordered(self, self.low, self.high)
        _require_period(self, self.period)

    @property
    def lowest(self) -> Number:
        """The low end."""
        return self.low

    def __call__(self, step: Number) -> float:
        """The draw of the step's period."""
        _require_step(step)
        draw = generator(self.seed, "temperature", int(step // self.period))
        share = torch.rand((), generator=draw, dtype=torch.float64)
        return self.low + (self.high - self.low) * float(share)


@dataclass(frozen=True, slots=True)
class Learnable(_Still):
    """Learned with the network, in its logarithm, as in CLIP; never below `lowest`."""

    start: Number = 0.07
    lowest: Number = 0.01
    """CLIP's: no logit is more than a hundred times a cosine."""

    def __post_init__(self) -> None:
        _require_positive(self, start=self.start, lowest=self.lowest)
        _require_ordered(self, self.lowest, self.start)

    def __call__(self, step: Number) -> float:
        """Where it begins; what is learned stands in the loss."""
        _require_step(step)
        return self.start


@dataclass(frozen=True, slots=True)
class Swing(_Periodic):
    """α/2 cos(2π (s / period + phase)): no temperature, but the moving part of `PerSample`."""

    alpha: Number
    period: Number
    phase: Number = 0.0

    def __post_init__(self) -> None:
        _require_period(self, self.period)
        if not 0 <= self.alpha < math.inf:
            raise InvalidInput(f"The swing's alpha is {self.alpha}; the rule is at least 0.")

    @property
    def lowest(self) -> Number:
        """Below zero."""
        return -0.5 * self.alpha

    def __call__(self, step: Number) -> float:
        """A point of the wave, zero in the mean."""
        return self.alpha * (_wave(step, self.period, self.phase) - 0.5)


@dataclass(frozen=True, slots=True)
class PerSample:
    """τ_i(s) = base(s) + shift(c_i): warmer for samples whose cluster is large.

    MM-TS (`Swing(0.08, steps / 5)` as the base): the shift is linear in the size c of the sample's
    cluster, `rare` for the smallest cluster and `frequent` for the largest. Called with a step it
    gives the base; the loss adds the shifts of its batch.
    """

    base: TemperatureSchedule
    rare: Number = 0.05
    frequent: Number = 0.20

    def __post_init__(self) -> None:
        for name, shift in (("rare", self.rare), ("frequent", self.frequent)):
            if not self.base.lowest + shift > 0:
                raise InvalidInput(
                    f"The temperature of {name} samples falls to {self.base.lowest + shift:.4g} "
                    f"(base {self.base.lowest:.4g}, shift {shift:.4g}); the rule is above 0 at "
                    "every step. Raise the shift or lower the swing's alpha."
                )

    @property
    def lowest(self) -> Number:
        """Of the rarest samples."""
        return self.base.lowest + min(self.rare, self.frequent)

    @property
    def length(self) -> Number:
        """That of the base."""
        return self.base.length

    def __call__(self, step: Number) -> float:
        """The base."""
        return self.base(step)

    def shifts(self, sizes: Sequence[int] | Tensor) -> Float[Tensor, " n"]:
        """What is added for samples whose clusters have these sizes; all sizes of a data set.

        Raises:
            InvalidInput: a size below 1, or none.
        """
        return size_shifts(sizes, self.rare, self.frequent)


def size_shifts(
    sizes: Sequence[int] | Tensor, rare: Number = 0.05, frequent: Number = 0.20
) -> Float[Tensor, " n"]:
    """Linear in the size of each sample's cluster: from `rare` (smallest) to `frequent` (largest).

    Where all sizes are alike, halfway.

    Raises:
        InvalidInput: a size below 1, or none.
    """
    counts = torch.as_tensor(sizes, dtype=torch.float64)
    if counts.numel() == 0 or not bool((counts >= 1).all()):
        raise InvalidInput("Cluster sizes are counts of samples, at least 1 each.")
    span = float(counts.max() - counts.min())
    share = (counts - counts.min()) / span if span else torch.full_like(counts, 0.5)
    return (rare + (frequent - rare) * share).float()


def tell_length(schedule: TemperatureSchedule, steps: Number) -> None:
    """Warn where a schedule is longer than the training: it is cut, and where it ends is told."""
    if schedule.length > steps:
        _log.warning(
            "The temperature schedule takes %g steps and the training %g: it is cut, the last "
            "value is %.4g.", schedule.length, steps, schedule(max(0, steps - 1)),
        )  # fmt: skip


def _wave(step: Number, period: Number, phase: Number) -> float:
    """(1 + cos) / 2 of a step."""
    _require_step(step)
    return 0.5 * (1.0 + math.cos(2.0 * math.pi * (step / period + phase)))


def _require_positive(owner: object, **values: Number) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InvalidInput(
                f"A {type(owner).__name__.lower()} temperature has {name} {value}; the rule is a "
                "number above 0. Usual are 0.05 to 1."
            )


def _require_ordered(owner: object, low: Number, high: Number) -> None:
    if low > high:
        raise InvalidInput(
            f"A {type(owner).__name__.lower()} temperature goes from {low} up to {high}; the rule "
            "is low before high. Exchange them."
        )


def _require_period(owner: object, period: Number) -> None:
    if not 0 < period < math.inf:
        raise InvalidInput(
            f"A {type(owner).__name__.lower()} temperature has a period of {period} steps; the "
            "rule is a number above 0."
        )


def _require_step(step: Number) -> None:
    if not step >= 0:
        raise InvalidInput(f"A step counts from 0, got {step}.")
