"""The elastic net by Newton steps on the weights that can be non-zero.

Minimises the objective of `dncbm.probe.loss` from a warm start, stops on the
Karush-Kuhn-Tucker conditions rather than on a count of steps, and is deterministic.
"""

import logging
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float

from dncbm.probe.classwise import Columns
from dncbm.probe.loss import Design, kkt_violations, penalty_value
from dncbm.probe.newton import Net, Newton

logger = logging.getLogger(__name__)

_INNER = 0.3
"""Share of the goal to reach class by class, so that all classes together reach the goal."""
_LEAST_DECREASE = 1e-3
"""Relative decrease of the objective in one round, per square of the tolerance (the gap shrinks
with the square of the violations), below which nothing is left to gain."""
_LEAST_BOUND = 0.5
"""Share of the penalty below which the slope of a weight at zero never makes it a candidate."""
_LEAST_FLOAT32_GOAL = 3e-6
"""Derivatives are known to about 1e-7 in float32; a smaller goal takes float64."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SolverOptions:
    """When a convex solver stops."""

    tolerance: float = 1e-2
    """Largest KKT violation, as a share of the penalty. A solver also stops where the objective
    has all but stopped falling, long before it matters."""
    max_iterations: int = 2000
    """Rounds over all classes (of `solve_ridge`: steps) after which an unfinished solution is
    returned (and logged)."""


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Solution:
    """A minimiser in the scaled space of its design."""

    weights: Float[np.ndarray, "c k"]
    bias: Float[np.ndarray, " k"]
    penalty: float
    l1_ratio: float
    objective: float
    violation: float
    """Largest KKT violation over weights and bias."""
    iterations: int
    converged: bool

    @property
    def effective_concepts(self) -> float:
        """NEC: mean number of non-zero weights per class."""
        return float(np.count_nonzero(self.weights)) / self.weights.shape[1]

    def with_weights(self, weights: Float[np.ndarray, "d k"]) -> "Solution":
        """The same solution with its weights placed in another table."""
        return replace(self, weights=weights)

    def moved(self, weights: Float[np.ndarray, "c k"], bias: Float[np.ndarray, " k"]) -> "Solution":
        """Other weights and bias to start from."""
        return replace(self, weights=weights, bias=bias)


def null_solution(design: Design) -> Solution:
    """All weights zero, bias at the class shares: where a path starts."""
    weights = np.zeros((design.num_columns, design.num_classes), dtype=design.scale.dtype)
    bias = design.null_bias()
    return Solution(
        weights=weights,
        bias=bias,
        penalty=float("inf"),
        l1_ratio=1.0,
        objective=design.null_loss,
        violation=0.0,
        iterations=0,
        converged=True,
    )


def solve_elastic_net(
    design: Design, start: Solution, penalty: float, l1_ratio: float, options: SolverOptions
) -> Solution:
    """Minimise from a start; for many penalties on one design see `ElasticNet`."""
    return ElasticNet(design, l1_ratio, options).solve(start, penalty)


@final
class ElasticNet:
    """Fits of one design at many penalties, each from the one before.

    Works on the weights that can be non-zero and then checks all others, so the result is the
    solution of the full problem. Which weights can be is guessed by the sequential strong rule
    (Tibshirani et al. 2012, JRSS-B 74), weight by weight.

    Arithmetic is float32 where the tolerance allows it, and float64 elsewhere.
    """

    def __init__(self, design: Design, l1_ratio: float, options: SolverOptions) -> None:
        self._design, self._l1_ratio, self._options = design, l1_ratio, options
        self._fit: Newton | None = None
        self._slopes = np.zeros((0, 0)), np.zeros(0)

    def solve(self, start: Solution, penalty: float) -> Solution:
        """Minimise at a penalty, from a start."""
        net, goal = Net(penalty, self._l1_ratio), self._options.tolerance * penalty
        fit = self._enter(start, goal)
        work = (fit.weights != 0) | (np.abs(self._slopes[0]) >= _strong_bound(start, net))
        done, violation, finished = 0, np.inf, False
        while not finished and done < self._options.max_iterations:
            used = [np.flatnonzero(column) for column in work.T]
            most = self._options.max_iterations - done
            least = _LEAST_DECREASE * self._options.tolerance**2 * fit.objective(net)
            ended = fit.descend(used, net, _INNER * goal, sweeps=most, least=least)
            done += ended.sweeps
            fit.settle()
            self._slopes = fit.logits.gradient()
            violations, violation = _violations(fit, self._slopes, net)
            missed = (violations > goal) & ~work
            work |= missed
            finished = violation <= goal or (ended.gained < least and not missed.any())
        if not finished:
            _warn_unfinished(penalty, done)
        return Solution(
            weights=fit.weights.copy(),
            bias=fit.bias.copy(),
            penalty=penalty,
            l1_ratio=self._l1_ratio,
            objective=fit.objective(net),
            violation=violation,
            iterations=done,
            converged=finished,
        )

    def _enter(self, start: Solution, goal: float) -> Newton:
        """The fit at a start: the one of the last solution where that is the start."""
        dtype, fit = working_type(goal), self._fit
        if fit is None or fit.columns.dtype != dtype:
            fit = Newton(Columns.of(self._design, dtype), start.weights, start.bias)
        elif not fit.is_at(start.weights, start.bias):
            fit = Newton(fit.columns, start.weights, start.bias)
        if fit is not self._fit:
            self._fit, self._slopes = fit, fit.logits.gradient()
        return fit


def working_type(goal: float) -> str:
    """The floating type in which derivatives can be brought below a goal."""
    return "float32" if goal >= _LEAST_FLOAT32_GOAL else "float64"


def _strong_bound(start: Solution, net: Net) -> float:
    """The slope from which a weight may leave zero.

    The rule is for short steps. Where the penalty falls to less than a half, it would let in all
    weights, and blocks of all columns are what has to be avoided; those missed are found later.
    """
    previous = start.penalty if np.isfinite(start.penalty) else net.penalty
    return net.l1_ratio * max(2.0 * net.penalty - previous, _LEAST_BOUND * net.penalty)


def _violations(
    fit: Newton, slopes: tuple[Float[np.ndarray, "c k"], Float[np.ndarray, " k"]], net: Net
) -> tuple[Float[np.ndarray, "c k"], float]:
    violations = kkt_violations(fit.weights, slopes[0], net.penalty, net.l1_ratio)
    return violations, max(float(violations.max(initial=0.0)), float(np.abs(slopes[1]).max()))


def _warn_unfinished(penalty: float, rounds: int) -> None:
    logger.warning(
        "Elastic net with penalty %.3g stopped after %d steps short of its tolerance.",
        penalty,
        rounds,
    )


def objective(
    design: Design,
    weights: Float[np.ndarray, "c k"],
    bias: Float[np.ndarray, " k"],
    penalty: float,
    l1_ratio: float,
) -> float:
    """Mean cross entropy plus elastic net."""
    return design.loss(design.logits(weights, bias)) + penalty_value(weights, penalty, l1_ratio)
