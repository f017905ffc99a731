"""Softmax regression with an L2 penalty: of all weights by L-BFGS, of a few by Newton steps."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from dncbm.probe.classwise import Columns
from dncbm.probe.loss import Design, penalty_value
from dncbm.probe.newton import Net, Newton
from dncbm.probe.precondition import Coordinates, class_curvature, coordinates
from dncbm.probe.solvers import Solution, SolverOptions, null_solution, working_type

_MEMORY = 10
_LEAST_DECREASE = 1e-6
"""Relative decrease of the objective, per unit of tolerance, at which progress has ended."""


def solve_ridge(
    design: Design,
    start: Solution,
    penalty: float,
    options: SolverOptions,
) -> Solution:
    """Minimise over all weights with an L2 penalty only, by L-BFGS in round coordinates.

    Stops where no derivative exceeds `tolerance * penalty`, or where the objective has all but
    stopped falling.
    """
    problem = _Ridge(design, coordinates(design, penalty), penalty)
    goal = options.tolerance * penalty

    def halt(intermediate_result: Any) -> None:  # the name is SciPy's switch for this signature
        if problem.violation <= goal:
            raise StopIteration

    result = minimize(
        problem.value,
        problem.enter(start.weights, start.bias),
        jac=True,
        method="L-BFGS-B",
        callback=halt,
        options={
            "maxiter": options.max_iterations,
            "maxfun": 2 * options.max_iterations,
            "gtol": 0.0,
            "ftol": _LEAST_DECREASE * options.tolerance,
            "maxcor": _MEMORY,
        },
    )
    weights, bias = problem.leave(result.x)
    problem.value(result.x)
    return Solution(
        weights=weights,
        bias=bias,
        penalty=penalty,
        l1_ratio=0.0,
        objective=float(result.fun),
        violation=problem.violation,
        iterations=int(result.nit),
        converged=bool(result.success) or problem.violation <= goal,
    )


class _Ridge:
    """The objective in round coordinates, and the largest derivative at its last point."""

    def __init__(self, design: Design, inside: Coordinates, penalty: float) -> None:
        self.violation = float("inf")
        self._design, self._inside, self._penalty = design, inside, penalty
        self._bias_size = class_curvature(design) ** -0.5

    def enter(
        self, weights: Float[np.ndarray, "c k"], bias: Float[np.ndarray, " k"]
    ) -> Float[np.ndarray, " p"]:
        parts = self._inside.enter(weights), bias / self._bias_size
        return np.concatenate(parts).astype(np.float64)

    def leave(
        self, variables: Float[np.ndarray, " p"]
    ) -> tuple[Float[np.ndarray, "c k"], Float[np.ndarray, " k"]]:
        k = self._design.num_classes
        return self._inside.leave(variables[:-k]), variables[-k:] * self._bias_size

    def value(self, variables: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        weights, bias = self.leave(variables)
        dtype = self._design.scale.dtype
        logits = self._design.logits(weights.astype(dtype), bias.astype(dtype))
        loss, slopes = self._design.loss_and_slopes(logits)
        by_weight, by_bias = self._design.pullback(slopes)
        by_weight = by_weight + self._penalty * weights
        self.violation = float(max(np.abs(by_weight).max(), np.abs(by_bias).max()))
        gradient = np.concatenate([self._inside.pull(by_weight), by_bias * self._bias_size])
        return loss + penalty_value(weights, self._penalty, 0.0), gradient.astype(np.float64)


def refit(
    design: Design,
    keep: Bool[np.ndarray, "c k"],
    penalty: float,
    options: SolverOptions,
    *,
    start: Solution | None = None,
) -> Solution:
    """The marked weights fitted anew (L2 penalty only), all others exactly zero.

    `start` gives the weights to begin with; the result does not depend on it, only its cost.
    """
    begin = null_solution(design) if start is None else start
    if not keep.any():
        return replace(null_solution(design), penalty=penalty, l1_ratio=0.0)
    net, goal = Net(penalty, 0.0), options.tolerance * penalty
    columns = Columns.of(design, working_type(goal))
    fit = Newton(columns, np.where(keep, begin.weights, 0.0), begin.bias)
    used = [np.flatnonzero(column) for column in keep.T]
    ended = fit.descend(
        used, net, goal, sweeps=options.max_iterations, least=_LEAST_DECREASE * options.tolerance
    )
    return Solution(
        weights=fit.weights,
        bias=fit.bias,
        penalty=penalty,
        l1_ratio=0.0,
        objective=fit.objective(net),
        violation=ended.violation,
        iterations=ended.sweeps,
        converged=ended.sweeps < options.max_iterations or ended.violation <= goal,
    )
