"""Which of many fits to keep: candidates along penalties, judged on the validation split."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float

from dncbm.probe.loss import Design, unscale
from dncbm.probe.memo import Memo
from dncbm.probe.metrics import accuracy, cross_entropy
from dncbm.probe.solvers import (
    Solution,
    SolverOptions,
    null_solution,
    solve_elastic_net,
    solve_ridge,
)
from dncbm.probe.splits import Split
from dncbm.probe.truncation import largest_weights, refit
from dncbm.training.progress import Progress

RIDGE_STRENGTHS = tuple(float(value) for value in 10.0 ** np.arange(-1.5, -7.6, -0.5))
"""L2 penalties tried, strongest first, in units of the codes' total variance."""
REFIT_STRENGTHS = (3e-4, 3e-5, 3e-6)
_PATIENCE = 3
_EXPLAINED = 0.99
_HALVINGS = (8, 4, 2)
_DEFAULT_RIDGE = 3
_CANDIDATE_FACTORS = (1.0, 1.5, 2.5, 4.0)


_Mask = Bool[np.ndarray, "c k"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A fit with its merit on the validation split (higher is better)."""

    name: str
    design: Design
    solution: Solution
    merit: tuple[float, float]
    """Accuracy, then negative cross entropy; zeros without a validation split."""


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bench:
    """What every fit of one training run shares."""

    validation: Split | None
    memo: Memo
    options: SolverOptions
    progress: Progress

    def judge(self, name: str, design: Design, solve: Callable[[], Solution]) -> Candidate:
        """Solve (or recall) a fit and measure it."""
        solution = self.memo.solution(name, solve)
        return Candidate(name, design, solution, merit(design, solution, self.validation))

    def best(self, candidates: Sequence[Candidate], default: int = 0) -> Candidate:
        """Of the candidates that are about as accurate as the best, the most probable one.

        Validation accuracies half a standard error apart cannot be told apart; the cross
        entropy can, and it exposes overfitting. Without validation: the default candidate.
        """
        if self.validation is None:
            return candidates[min(default, len(candidates) - 1)]
        top = max(candidate.merit[0] for candidate in candidates)
        slack = 0.5 * np.sqrt(top * (1.0 - top) / len(self.validation.labels))
        close = [candidate for candidate in candidates if candidate.merit[0] >= top - slack]
        return max(close, key=lambda candidate: candidate.merit[1])


def merit(design: Design, solution: Solution, validation: Split | None) -> tuple[float, float]:
    """Validation accuracy and negative validation cross entropy."""
    if validation is None:
        return 0.0, 0.0
    weights, bias = unscale(design, solution.weights, solution.bias)
    logits: Float[np.ndarray, "n k"] = validation.matrix @ weights.T + bias
    return accuracy(logits, validation.labels), -cross_entropy(logits, validation.labels)


def elastic_net_path(
    bench: Bench, design: Design, penalties: Iterable[float], l1_ratio: float, stop_at: float
) -> list[Candidate]:
    """Warm-started fits from strong to weak penalty, until NEC exceeds `stop_at`.

    As in glmnet, the path also ends where nearly all of the training deviance is explained.
    """
    every = list(penalties)
    path: list[Candidate] = []
    last = null_solution(design)
    for index, penalty in enumerate(every):
        candidate = bench.judge(
            f"path-{index:03d}",
            design,
            lambda start=last, value=penalty: solve_elastic_net(  # type: ignore[misc]
                design, start, value, l1_ratio, bench.options
            ),
        )
        path.append(candidate)
        last = candidate.solution
        bench.progress("probe path", index + 1, len(every))
        if last.effective_concepts > stop_at or _explains_all(design, last):
            break
    return path


def ridge_path(bench: Bench, design: Design, label: str) -> list[Candidate]:
    """Dense L2 fits from strong to weak, until validation stops improving."""
    unit = design.total_variance()
    path: list[Candidate] = []
    last = null_solution(design)
    for index, strength in enumerate(RIDGE_STRENGTHS):
        candidate = bench.judge(
            f"ridge-{label}-{index:02d}",
            design,
            lambda start=last, value=strength * unit: solve_ridge(  # type: ignore[misc]
                design, start, value, bench.options
            ),
        )
        path.append(candidate)
        last = candidate.solution
        bench.progress(f"probe dense ({label})", index + 1, len(RIDGE_STRENGTHS))
        done = _stalled(path) or _explains_all(design, last)
        if done or (bench.validation is None and index == _DEFAULT_RIDGE):
            break
    return path


def _explains_all(design: Design, solution: Solution) -> bool:
    """The training labels are all but explained: weaker penalties only inflate weights."""
    null = design.loss(np.tile(design.null_bias(), (design.num_rows, 1)))
    loss = design.loss(design.logits(solution.weights, solution.bias))
    return loss < (1.0 - _EXPLAINED) * null


def _stalled(path: Sequence[Candidate]) -> bool:
    """Neither accuracy nor cross entropy has improved in the last few fits."""
    if len(path) <= _PATIENCE:
        return False
    before, recent = path[:-_PATIENCE], path[-_PATIENCE:]
    return all(
        max(item.merit[part] for item in recent) <= max(item.merit[part] for item in before)
        for part in (0, 1)
    )


def nec_head(bench: Bench, sources: Sequence[Candidate], nec: int, scope: str) -> Candidate:
    """The best head with `nec` concepts per class, cut from one of several fits and refitted."""
    heads = []
    for source in sources:
        for how, keep in _cuts(bench, source, nec, scope).items():
            for strength in REFIT_STRENGTHS:
                name = f"nec{nec}-{source.name}-{how}-{strength:g}"
                heads.append(_refitted(bench, source.design, keep, name, strength))
    return bench.best(heads, default=1)


def _cuts(bench: Bench, source: Candidate, nec: int, scope: str) -> dict[str, _Mask]:
    """The weights to keep: the largest at once, and the largest after halving with refits.

    Halving gives correlated concepts the chance to take over the weight of those that went.
    """
    weights = source.solution.weights
    cuts = {"direct": largest_weights(weights, nec, scope)}
    widths = [
        factor * nec
        for factor in _HALVINGS
        if np.count_nonzero(weights) > factor * weights.shape[1] * nec
    ]
    for width in widths:
        name = f"nec{nec}-{source.name}-at{width}"
        keep = largest_weights(weights, width, scope)
        weights = _refitted(bench, source.design, keep, name, REFIT_STRENGTHS[1]).solution.weights
    if widths:
        cuts["halved"] = largest_weights(weights, nec, scope)
    return cuts


def _refitted(bench: Bench, design: Design, keep: _Mask, name: str, strength: float) -> Candidate:
    penalty = strength * design.total_variance()
    return bench.judge(name, design, lambda: refit(design, keep, penalty, bench.options))


def cut_sources(path: Sequence[Candidate], nec: int) -> list[Candidate]:
    """Fits of the path with about 1, 1.5, 2.5 and 4 times the wanted number of concepts."""
    chosen: dict[str, Candidate] = {}
    for factor in _CANDIDATE_FACTORS:
        wide = [item for item in path if item.solution.effective_concepts >= factor * nec]
        source = wide[0] if wide else path[-1]
        chosen[source.name] = source
    return list(chosen.values())
