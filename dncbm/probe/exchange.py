"""Better supports for a fixed number of weights: the least useful are exchanged for better ones.

A cut of a wider fit keeps the largest weights, which need not be the best few together. Here a
weight of zero is worth the decrease that a Newton step of it alone promises, `g**2 / 2H`, a kept
one what its loss would cost, `H w**2 / 2`. Where the first exceeds the second by a margin the two
change places, and all are fitted again. What does not lower the objective is undone, and the
margin doubled. This is the swap of
hard-thresholding pursuit (Foucart 2011, SIAM J. Numer. Anal. 49(6)) with a guard.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from dncbm.probe.loss import Design
from dncbm.probe.solvers import Solution

_ROUNDS = 20
_WIDEST = 16.0
_LEAST = 1e-5
"""Relative decrease of the objective that is worth a round."""

Fit = Callable[[Bool[np.ndarray, "c k"], Solution], Solution]
"""Fits the marked weights, starting from a solution."""


def exchanged(design: Design, start: Solution, fit: Fit, scope: str) -> Solution:
    """The best solution found by exchanges, with as many weights per class (or in all)."""
    best, margin = start, 1.0
    for _ in range(_ROUNDS):
        kept, worth = best.weights != 0, usefulness(design, best)
        while True:
            keep = swapped(kept, worth, margin, scope)
            if margin > _WIDEST or (keep == kept).all():
                return best
            trial = fit(keep, best)
            if trial.objective < best.objective * (1.0 - _LEAST):
                break
            margin *= 2.0
        best = trial
    return best


def usefulness(design: Design, at: Solution) -> Float[np.ndarray, "c k"]:
    """What each kept weight saves, and what each other one promises to save."""
    slopes = design.loss_and_slopes(design.logits(at.weights, at.bias))[1]
    by_weight = design.pullback(slopes)[0]
    chances = slopes * (design.num_rows / design.example_weights[:, None])
    chances[np.arange(design.num_rows), design.labels] += 1.0
    curvature = design.example_weights @ (chances * (1.0 - chances)) / design.num_rows
    table = np.outer(design.variance, curvature) + at.penalty
    return np.where(at.weights != 0, table * at.weights**2, by_weight**2 / table) / 2.0


def swapped(
    keep: Bool[np.ndarray, "c k"], worth: Float[np.ndarray, "c k"], margin: float, scope: str
) -> Bool[np.ndarray, "c k"]:
    """Exchange kept entries of each class (or of all) for others that are `margin` times as useful.

    The least useful one goes for the most useful other one, and so on.
    """
    if scope == "global":
        flat = swapped(keep.reshape(-1, 1), worth.reshape(-1, 1), margin, "class")
        return flat.reshape(keep.shape)
    new = keep.copy()
    for column, marks, values in zip(new.T, keep.T, worth.T, strict=True):
        inside, outside = np.flatnonzero(marks), np.flatnonzero(~marks)
        going = inside[np.argsort(values[inside], kind="stable")]
        coming = outside[np.argsort(-values[outside], kind="stable")][: len(going)]
        going = going[: len(coming)]
        better = values[coming] > margin * values[going]
        column[going[better]], column[coming[better]] = False, True
    return new
