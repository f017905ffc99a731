"""Heads with a fixed number of concepts per class: keep the largest weights, fit those again.

NEC as in Srivastava, Yan, Weng (VLG-CBM, 2024). Their protocol cuts globally, so NEC is an
average; the default here cuts per class, which gives every class the same short list.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from dncbm.errors import InvalidInput
from dncbm.probe.loss import Design, unscale
from dncbm.probe.matrix import (
    Codes,
    Labels,
    check_classes_covered,
    check_same_length,
    class_indices,
    code_matrix,
)
from dncbm.probe.model import Probe
from dncbm.probe.solvers import Solution, SolverOptions, null_solution, solve_ridge

TRUNCATIONS = ("class", "global")


def check_nec(necs: Sequence[int]) -> None:
    """Refuse a number of concepts per class below one."""
    wrong = [nec for nec in necs if nec < 1]
    if wrong:
        raise InvalidInput(
            f"nec must be >= 1, got {wrong[0]}: it is the number of concepts a class may use."
        )


def largest_weights(
    weights: Float[np.ndarray, "c k"], nec: int, scope: str = "class"
) -> Bool[np.ndarray, "c k"]:
    """Mark the `nec` largest absolute non-zero weights of each class, or `nec * k` overall.

    Ties go to the lower concept index. `weights` are those of the scaled codes (weight times
    column scale), which makes concepts comparable.
    """
    check_nec([nec])
    size = np.abs(weights)
    keep = np.zeros(weights.shape, dtype=bool)
    if scope == "global":
        best = np.argsort(-size, axis=None, kind="stable")[: nec * weights.shape[1]]
        keep.ravel()[best] = True
    else:
        best = np.argsort(-size, axis=0, kind="stable")[:nec]
        np.put_along_axis(keep, best, values=True, axis=0)
    return keep & (weights != 0)


def refit(
    design: Design, keep: Bool[np.ndarray, "c k"], penalty: float, options: SolverOptions
) -> Solution:
    """The marked weights fitted anew (L2 penalty only), all others exactly zero."""
    used = np.asarray(keep.any(axis=1))
    weights = np.zeros(keep.shape)
    if not used.any():
        return null_solution(design)
    part_design = design.columns(used)
    start = null_solution(part_design)
    part = solve_ridge(part_design, start, penalty, options, mask=keep[used])
    weights[used] = part.weights
    return Solution(
        weights=weights,
        bias=part.bias,
        penalty=penalty,
        l1_ratio=0.0,
        objective=part.objective,
        violation=part.violation,
        iterations=part.iterations,
        step=part.step,
        converged=part.converged,
    )


def truncate_to_nec(
    probe: Probe,
    nec: int,
    codes: Codes,
    labels: Labels,
    *,
    scope: str = "class",
    penalty: float = 1e-4,
    refit_weights: bool = True,
) -> Probe:
    """A probe with at most `nec` concepts per class (on average, if `scope` is `global`).

    Args:
        probe: a fitted probe over the same concepts.
        nec: concepts per class, >= 1.
        codes: training codes (n, c).
        labels: their classes.
        scope: cut per class or over all weights.
        penalty: L2 strength of the refit, in units of the codes' total variance.
        refit_weights: fit the kept weights and the bias again; otherwise only cut.

    Raises:
        InvalidInput: nec below one, or codes and labels that do not fit the probe.
    """
    matrix, indices = code_matrix(codes), class_indices(labels, probe.classes)
    check_same_length(matrix, indices, "train")
    check_classes_covered(indices, probe.classes)
    design = Design.build(matrix, indices, probe.num_classes)
    scaled = probe.weights.double().numpy().T * design.scale[:, None]
    keep = largest_weights(scaled, nec, scope)
    if not refit_weights:
        return Probe(probe.weights * torch.from_numpy(keep.T), probe.bias, probe.classes)
    unit = max(design.total_variance(), 1e-12)
    solution = refit(design, keep, penalty * unit, SolverOptions())
    return to_probe(design, solution, probe.classes)


def to_probe(design: Design, solution: Solution, classes: tuple[str, ...]) -> Probe:
    """A solution as float32 probe over the codes as they come."""
    weights, bias = unscale(design, solution.weights, solution.bias)
    return Probe(torch.from_numpy(weights).float(), torch.from_numpy(bias).float(), classes)
