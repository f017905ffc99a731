"""Schedules as pure functions of the step: same step, same value, nothing remembered."""

import math
from collections.abc import Callable

from dncbm.errors import InvalidInput

Schedule = Callable[[int], float]
"""Maps a step (0 is the first update) to a value such as a learning rate."""


def constant(value: float) -> Schedule:
    """The same ``value`` at every step."""

    def at(step: int) -> float:
        _check_step(step)
        return value

    return at


def cosine(start: float, end: float, steps: int, warmup: int = 0) -> Schedule:
    """Half a cosine from ``start`` to ``end`` over ``steps`` updates.

    The first ``warmup`` of the steps rise linearly to ``start`` (the first update already
    takes ``start / warmup``, never 0). Steps at or past ``steps`` stay at ``end``.
    """
    if warmup < 0 or steps <= warmup:
        raise InvalidInput(
            f"A cosine schedule needs 0 <= warmup < steps, got warmup {warmup} and steps {steps}."
        )

    def at(step: int) -> float:
        _check_step(step)
        if step < warmup:
            return start * (step + 1) / warmup
        progress = min(1.0, (step - warmup) / (steps - warmup))
        return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return at


def _check_step(step: int) -> None:
    if step < 0:
        raise InvalidInput(f"A step counts updates from 0, got {step}.")
