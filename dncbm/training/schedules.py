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


def held(value: float, steps: int, warmup: int = 0, decay: float = 0.2) -> Schedule:
    """Linear warm-up, then `value`, then straight down to 0 over the last share `decay`.

    The first of ``warmup`` updates takes ``value / warmup``; the last of ``steps`` is above 0.
    """
    falling = decay * steps
    if warmup < 0 or not 0 < decay <= 1 or steps <= warmup:
        raise InvalidInput(
            "A held schedule needs 0 <= warmup < steps and a decay in (0, 1], got warmup "
            f"{warmup}, steps {steps} and decay {decay}."
        )

    def at(step: int) -> float:
        _check_step(step)
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return value * min(rise, max(0.0, (steps - step) / falling), 1.0)

    return at


def _check_step(step: int) -> None:
    if step < 0:
        raise InvalidInput(f"A step counts updates from 0, got {step}.")
