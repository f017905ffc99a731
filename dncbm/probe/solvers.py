"""The elastic net by accelerated proximal gradient.

Minimises the objective of `dncbm.probe.loss` from a warm start, stops on the
Karush-Kuhn-Tucker conditions rather than on a count of steps, and is deterministic.
"""

import logging
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Bool, Float

from dncbm.probe.loss import Design, kkt_violations, penalty_value, soft_threshold

logger = logging.getLogger(__name__)

_STEP_GROWTH = 1.2
_MAX_SCREENS = 20


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SolverOptions:
    """When a convex solver stops."""

    tolerance: float = 1e-2
    """Largest KKT violation, as a share of the penalty."""
    max_iterations: int = 2000
    """Steps after which an unfinished solution is returned (and logged)."""


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
    step: float
    """Last step size: the next warm start begins with it."""
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

    def rows(self, keep: Bool[np.ndarray, " c"]) -> "Solution":
        """The same solution with only the weights of the marked concepts."""
        return replace(self, weights=self.weights[keep])


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
        step=1.0 / design.lipschitz,
        converged=True,
    )


def solve_elastic_net(
    design: Design, start: Solution, penalty: float, l1_ratio: float, options: SolverOptions
) -> Solution:
    """Minimise on the concepts that can matter, then check all others and add violators.

    Screening is the sequential strong rule (Tibshirani et al. 2012, JRSS-B 74) with a KKT
    check over all concepts, so the result is the solution of the full problem.
    """
    weights, bias = start.weights.copy(), start.bias
    gradient = np.abs(design.gradient(weights, bias)[0]).max(axis=1)
    keep = (weights != 0).any(axis=1) | (gradient >= _strong_bound(start, penalty, l1_ratio))
    iterations, step = 0, start.step
    for _ in range(_MAX_SCREENS):
        part = minimise(
            design if keep.all() else design.columns(keep),
            _Point(weights[keep], bias, step),
            _Problem(penalty, l1_ratio, options, 1.0 / design.lipschitz),
        )
        weights[keep], bias, step = part.weights, part.bias, part.step
        iterations += part.iterations
        violations, violation = _violations(design, weights, bias, penalty, l1_ratio)
        missed = (violations > options.tolerance * penalty).any(axis=1) & ~keep
        if not missed.any():
            break
        keep |= missed
    return Solution(
        weights=weights,
        bias=bias,
        penalty=penalty,
        l1_ratio=l1_ratio,
        objective=objective(design, weights, bias, penalty, l1_ratio),
        violation=violation,
        iterations=iterations,
        step=step,
        converged=part.converged,
    )


def _strong_bound(start: Solution, penalty: float, l1_ratio: float) -> float:
    previous = start.penalty if np.isfinite(start.penalty) else penalty
    return l1_ratio * (2.0 * penalty - previous)


def objective(
    design: Design,
    weights: Float[np.ndarray, "c k"],
    bias: Float[np.ndarray, " k"],
    penalty: float,
    l1_ratio: float,
) -> float:
    """Mean cross entropy plus elastic net."""
    return design.loss(design.logits(weights, bias)) + penalty_value(weights, penalty, l1_ratio)


def _violations(
    design: Design,
    weights: Float[np.ndarray, "c k"],
    bias: Float[np.ndarray, " k"],
    penalty: float,
    l1_ratio: float,
) -> tuple[Float[np.ndarray, "c k"], float]:
    by_weight, by_bias = design.gradient(weights, bias)
    violations = kkt_violations(weights, by_weight, penalty, l1_ratio)
    return violations, max(float(violations.max(initial=0.0)), float(np.abs(by_bias).max()))


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    weights: Float[np.ndarray, "c k"]
    bias: Float[np.ndarray, " k"]
    step: float


@final
@dataclass(frozen=True, slots=True)
class _Problem:
    penalty: float
    l1_ratio: float
    options: SolverOptions
    safe_step: float
    """A step that always decreases; that of all concepts is safe for some of them, too."""


@final
@dataclass(slots=True, eq=False)
class _Minimised:
    weights: Float[np.ndarray, "c k"]
    bias: Float[np.ndarray, " k"]
    step: float
    iterations: int
    converged: bool


def minimise(design: Design, start: _Point, problem: _Problem) -> _Minimised:
    """FISTA (Beck and Teboulle 2009) with adaptive step and gradient restart.

    Restart after O'Donoghue and Candes (2015): momentum that points uphill is dropped.
    """
    if design.num_columns == 0:
        return _Minimised(start.weights, start.bias, start.step, 0, converged=True)
    goal = problem.options.tolerance * problem.penalty
    here = _Iterate.at(design, start.weights, start.bias)
    ahead, momentum, step = here, 1.0, max(start.step, problem.safe_step)
    for iteration in range(1, problem.options.max_iterations + 1):
        new, slopes_step = _proximal_step(design, ahead, problem, step)
        if _distance(ahead, new) <= goal * slopes_step and _is_optimal(design, new, problem, goal):
            return _Minimised(new.weights, new.bias, slopes_step, iteration, converged=True)
        if _uphill(ahead, new, here):
            momentum = 1.0
        grown = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = new.beyond(here, (momentum - 1.0) / grown)
        here, momentum, step = new, grown, slopes_step * _STEP_GROWTH
    logger.warning(
        "Elastic net with penalty %.3g stopped after %d steps short of its tolerance.",
        problem.penalty,
        problem.options.max_iterations,
    )
    return _Minimised(here.weights, here.bias, step, iteration, converged=False)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Iterate:
    """Parameters with their logits, so that extrapolation costs no product."""

    weights: Float[np.ndarray, "c k"]
    bias: Float[np.ndarray, " k"]
    logits: Float[np.ndarray, "n k"]

    @classmethod
    def at(
        cls, design: Design, weights: Float[np.ndarray, "c k"], bias: Float[np.ndarray, " k"]
    ) -> "_Iterate":
        return cls(weights, bias, design.logits(weights, bias))

    def beyond(self, other: "_Iterate", amount: float) -> "_Iterate":
        """`self + amount * (self - other)`."""
        return _Iterate(
            self.weights + amount * (self.weights - other.weights),
            self.bias + amount * (self.bias - other.bias),
            self.logits + amount * (self.logits - other.logits),
        )


def _proximal_step(
    design: Design, at: _Iterate, problem: _Problem, step: float
) -> tuple[_Iterate, float]:
    """One proximal gradient step; the step is halved until it decreases enough."""
    loss, slopes = design.loss_and_slopes(at.logits)
    by_weight, by_bias = design.pullback(slopes)
    while True:
        weights = soft_threshold(
            at.weights - step * by_weight, step, problem.penalty, problem.l1_ratio
        )
        new = _Iterate.at(design, weights, at.bias - step * by_bias)
        if step <= problem.safe_step:
            return new, step
        move, shift = weights - at.weights, new.bias - at.bias
        squared = float((move**2).sum() + (shift**2).sum())
        linear = float((by_weight * move).sum() + by_bias @ shift)
        if design.loss(new.logits) <= loss + linear + squared / (2.0 * step):
            return new, step
        step = max(0.5 * step, problem.safe_step)


def _distance(a: _Iterate, b: _Iterate) -> float:
    return max(float(np.abs(a.weights - b.weights).max()), float(np.abs(a.bias - b.bias).max()))


def _uphill(ahead: _Iterate, new: _Iterate, here: _Iterate) -> bool:
    by_weight = float(((ahead.weights - new.weights) * (new.weights - here.weights)).sum())
    return by_weight + float((ahead.bias - new.bias) @ (new.bias - here.bias)) > 0


def _is_optimal(design: Design, at: _Iterate, problem: _Problem, goal: float) -> bool:
    by_weight, by_bias = design.pullback(design.loss_and_slopes(at.logits)[1])
    violations = kkt_violations(at.weights, by_weight, problem.penalty, problem.l1_ratio)
    return max(float(violations.max()), float(np.abs(by_bias).max())) <= goal
