"""Convex solvers: elastic net by accelerated proximal gradient, ridge by L-BFGS.

Both minimise the objective of `dncbm.probe.loss` from a warm start, stop on the
Karush-Kuhn-Tucker conditions rather than on a count of steps, and are deterministic.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from dncbm.errors import InvalidInput
from dncbm.probe.adam import fit_adam as fit_adam
from dncbm.probe.loss import Design, kkt_violations, penalty_value, soft_threshold, unscale
from dncbm.probe.matrix import (
    Codes,
    Labels,
    check_classes_covered,
    check_same_length,
    class_indices,
    code_matrix,
)

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


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fit:
    """An elastic-net fit for the codes as they come (scale folded into the weights)."""

    weights: Float[np.ndarray, "k c"]
    bias: Float[np.ndarray, " k"]
    scale: Float[np.ndarray, " c"]
    """Column scale under which the penalty was applied."""
    solution: Solution


def fit_elastic_net(
    codes: Codes,
    labels: Labels,
    classes: Sequence[str],
    *,
    penalty: float,
    l1_ratio: float = 0.99,
    balanced: bool = False,
    options: SolverOptions = SolverOptions(),
) -> Fit:
    """Sparse multinomial logistic regression with exact zeros, for one penalty.

    Args:
        codes: (n, c), dense or sparse.
        labels: class index or class name per row.
        classes: names of the k classes.
        penalty: strength of the elastic net, >= 0, per mean cross entropy.
        l1_ratio: 1 is pure L1, 0 pure L2.
        balanced: weigh classes equally instead of images.
        options: when to stop.

    Raises:
        InvalidInput: NaN codes, wrong shapes, fewer than two classes, a class without image.
    """
    if not (penalty >= 0 and 0 <= l1_ratio <= 1):
        raise InvalidInput(
            f"penalty must be >= 0 and l1_ratio in [0, 1], got {penalty} and {l1_ratio}."
        )
    matrix, indices = code_matrix(codes), class_indices(labels, classes)
    check_same_length(matrix, indices, "train")
    check_classes_covered(indices, classes)
    design = Design.build(matrix, indices, len(classes), balanced=balanced)
    solution = solve_elastic_net(design, null_solution(design), penalty, l1_ratio, options)
    weights, bias = unscale(design, solution.weights, solution.bias)
    return Fit(weights=weights, bias=bias, scale=design.scale, solution=solution)


def null_solution(design: Design) -> Solution:
    """All weights zero, bias at the class shares: where a path starts."""
    weights = np.zeros((design.num_columns, design.num_classes), dtype=design.scale.dtype)
    bias = design.null_bias()
    return Solution(
        weights=weights,
        bias=bias,
        penalty=float("inf"),
        l1_ratio=1.0,
        objective=design.loss(design.logits(weights, bias)),
        violation=0.0,
        iterations=0,
        step=1.0 / design.lipschitz(),
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
            _Problem(penalty, l1_ratio, options),
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
    safe_step = 1.0 / design.lipschitz()
    here = _Iterate.at(design, start.weights, start.bias)
    ahead, momentum, step = here, 1.0, max(start.step, safe_step)
    for iteration in range(1, problem.options.max_iterations + 1):
        new, slopes_step = _proximal_step(design, ahead, problem, step, safe_step)
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
    design: Design, at: _Iterate, problem: _Problem, step: float, safe_step: float
) -> tuple[_Iterate, float]:
    """One proximal gradient step; the step is halved until it decreases enough."""
    loss, slopes = design.loss_and_slopes(at.logits)
    by_weight, by_bias = design.pullback(slopes)
    while True:
        weights = soft_threshold(
            at.weights - step * by_weight, step, problem.penalty, problem.l1_ratio
        )
        new = _Iterate.at(design, weights, at.bias - step * by_bias)
        if step <= safe_step:
            return new, step
        move, shift = weights - at.weights, new.bias - at.bias
        squared = float((move**2).sum() + (shift**2).sum())
        linear = float((by_weight * move).sum() + by_bias @ shift)
        if design.loss(new.logits) <= loss + linear + squared / (2.0 * step):
            return new, step
        step = max(0.5 * step, safe_step)


def _distance(a: _Iterate, b: _Iterate) -> float:
    return max(float(np.abs(a.weights - b.weights).max()), float(np.abs(a.bias - b.bias).max()))


def _uphill(ahead: _Iterate, new: _Iterate, here: _Iterate) -> bool:
    by_weight = float(((ahead.weights - new.weights) * (new.weights - here.weights)).sum())
    return by_weight + float((ahead.bias - new.bias) @ (new.bias - here.bias)) > 0


def _is_optimal(design: Design, at: _Iterate, problem: _Problem, goal: float) -> bool:
    by_weight, by_bias = design.pullback(design.loss_and_slopes(at.logits)[1])
    violations = kkt_violations(at.weights, by_weight, problem.penalty, problem.l1_ratio)
    return max(float(violations.max()), float(np.abs(by_bias).max())) <= goal


def solve_ridge(
    design: Design,
    start: Solution,
    penalty: float,
    options: SolverOptions,
    *,
    mask: Bool[np.ndarray, "c k"] | None = None,
) -> Solution:
    """Minimise with an L2 penalty only, by L-BFGS; `mask` holds all other weights at zero."""
    shape = start.weights.shape
    free = np.ones(shape, dtype=bool) if mask is None else mask
    size = int(free.sum())

    def value(flat: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        weights = np.zeros(shape)
        weights[free] = flat[:size]
        loss, slopes = design.loss_and_slopes(design.logits(weights, flat[size:]))
        by_weight, by_bias = design.pullback(slopes)
        by_weight = by_weight + penalty * weights
        total = loss + penalty_value(weights, penalty, 0.0)
        return total, np.concatenate([by_weight[free], by_bias]).astype(np.float64)

    begin = np.concatenate([start.weights[free], start.bias]).astype(np.float64)
    result = _lbfgs(value, begin, penalty, options)
    weights = np.zeros(shape)
    weights[free] = result.x[:size]
    return Solution(
        weights=weights,
        bias=result.x[size:],
        penalty=penalty,
        l1_ratio=0.0,
        objective=float(result.fun),
        violation=float(np.abs(result.jac).max()),
        iterations=int(result.nit),
        step=start.step,
        converged=bool(result.success),
    )


def _lbfgs(value: Any, begin: Any, penalty: float, options: SolverOptions) -> Any:
    return minimize(
        value,
        begin,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": options.max_iterations,
            "maxfun": 2 * options.max_iterations,
            "gtol": options.tolerance * penalty,
            "ftol": 1e-6 * options.tolerance,
            "maxcor": 10,
        },
    )
