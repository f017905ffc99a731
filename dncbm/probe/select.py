"""Which of many fits to keep: candidates along penalties, judged on the validation split."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from dncbm.probe.loss import Design, unscale
from dncbm.probe.matrix import times
from dncbm.probe.memo import Memo, Packed
from dncbm.probe.metrics import accuracy, cross_entropy
from dncbm.probe.ridge import solve_ridge
from dncbm.probe.solvers import ElasticNet, Solution, SolverOptions, null_solution
from dncbm.probe.splits import Split
from dncbm.training.progress import Progress

RIDGE_STRENGTHS = tuple(float(value) for value in 10.0 ** np.arange(-1.5, -7.6, -0.5))
"""L2 penalties tried, strongest first, in units of the codes' total variance."""
_PATIENCE = 3
_LOOSE_FACTOR = 30.0
_FINALISTS = 3
_EXPLAINED = 0.99
DEFAULT_RIDGE = 3
"""Index of the L2 penalty that is taken without validation rows."""
_CANDIDATE_FACTORS = (1.0, 1.5, 2.5, 4.0)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A fit with its merit on the validation split (higher is better)."""

    name: str
    design: Design
    packed: Packed
    """The solution, with no room taken by zeros: there are hundreds of candidates."""
    merit: tuple[float, float]
    """Accuracy, then negative cross entropy; zeros without a validation split."""

    @property
    def solution(self) -> Solution:
        """The solution with all its weights, made anew at each call."""
        return self.packed.solution()


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
        return self.measured(name, design, solution)

    def measured(self, name: str, design: Design, solution: Solution) -> Candidate:
        """A solution with its merit."""
        return Candidate(
            name, design, Packed.of(solution), merit(design, solution, self.validation)
        )

    def loose(self) -> "Bench":
        """The same with solutions that are good enough to compare, not to keep."""
        tolerance = min(_LOOSE_FACTOR * self.options.tolerance, 1.0)
        return replace(self, options=replace(self.options, tolerance=tolerance))

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

    def finalists(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Of fits that were solved loosely, those to solve to the full tolerance.

        The best one, then those with the lowest cross entropy, which varies less from sample to
        sample than the accuracy.
        """
        best = self.best(candidates)
        others = sorted(candidates, key=lambda candidate: -candidate.merit[1])
        return [best, *(other for other in others if other is not best)][:_FINALISTS]


def merit(design: Design, solution: Solution, validation: Split | None) -> tuple[float, float]:
    """Validation accuracy and negative validation cross entropy."""
    if validation is None:
        return 0.0, 0.0
    weights, bias = unscale(design, solution.weights, solution.bias)
    logits = times(validation.matrix, weights.T) + bias
    return accuracy(logits, validation.labels), -cross_entropy(logits, validation.labels)


def elastic_net_path(
    bench: Bench, design: Design, penalties: Iterable[float], l1_ratio: float, stop_at: float
) -> list[Candidate]:
    """Warm-started fits from strong to weak penalty, until NEC exceeds `stop_at`.

    As in glmnet, the path also ends where nearly all of the training deviance is explained.
    """
    every = list(penalties)
    path: list[Candidate] = []
    net, last = ElasticNet(design, l1_ratio, bench.options), null_solution(design)
    for index, penalty in enumerate(every):
        candidate = bench.judge(
            f"path-{index:03d}",
            design,
            lambda start=last, value=penalty: net.solve(start, value),  # type: ignore[misc]
        )
        path.append(candidate)
        last = candidate.solution
        bench.progress("probe path", index + 1, len(every))
        if last.effective_concepts > stop_at or _explains_all(design, last):
            break
    return path


def dense_fits(bench: Bench, design: Design) -> list[Candidate]:
    """Dense L2 fits in two scalings: that of the design, and one scale for all columns.

    They are good enough to compare; `best_dense` solves the best to the full tolerance.
    """
    loose = bench.loose()
    return ridge_path(loose, design, "scaled") + ridge_path(loose, design.one_scale(), "raw")


def best_dense(bench: Bench, fits: Sequence[Candidate], default: int) -> Candidate:
    """The best of fits that are good enough to compare, after the most promising are polished."""
    if bench.validation is None:
        return _polished(bench, bench.best(fits, default))
    return bench.best([_polished(bench, fit) for fit in bench.finalists(fits)])


def _polished(bench: Bench, fit: Candidate) -> Candidate:
    """A dense fit solved to the full tolerance; fits of the elastic net are so already."""
    start = fit.solution
    if start.l1_ratio > 0.0:
        return fit
    return bench.judge(
        f"{fit.name}-polished",
        fit.design,
        lambda: solve_ridge(fit.design, start, start.penalty, bench.options),
    )


def ridge_path(bench: Bench, design: Design, label: str) -> list[Candidate]:
    """Dense L2 fits from strong to weak, until validation stops improving."""
    unit = design.total_variance()
    path: list[Candidate] = []
    last = before = null_solution(design)
    for index, strength in enumerate(RIDGE_STRENGTHS):
        start = _ahead(last, before)
        candidate = bench.judge(
            f"ridge-{label}-{index:02d}",
            design,
            lambda start=start, value=strength * unit: solve_ridge(  # type: ignore[misc]
                design, start, value, bench.options
            ),
        )
        path.append(candidate)
        last, before = candidate.solution, last
        bench.progress(f"probe dense ({label})", index + 1, len(RIDGE_STRENGTHS))
        done = _stalled(path) or _explains_all(design, last)
        if done or (bench.validation is None and index == DEFAULT_RIDGE):
            break
    return path


def _ahead(last: Solution, before: Solution) -> Solution:
    """Where a path goes next if it goes on as it did: a start nearer to the next solution.

    A weight that would change its sign starts at zero.
    """
    weights = 2.0 * last.weights - before.weights
    weights[np.sign(weights) != np.sign(last.weights)] = 0.0
    return last.moved(weights, 2.0 * last.bias - before.bias)


def _explains_all(design: Design, solution: Solution) -> bool:
    """The training labels are all but explained: weaker penalties only inflate weights."""
    loss = design.loss(design.logits(solution.weights, solution.bias))
    return loss < (1.0 - _EXPLAINED) * design.null_loss


def _stalled(path: Sequence[Candidate]) -> bool:
    """Neither accuracy nor cross entropy has improved in the last few fits."""
    if len(path) <= _PATIENCE:
        return False
    before, recent = path[:-_PATIENCE], path[-_PATIENCE:]
    return all(
        max(item.merit[part] for item in recent) <= max(item.merit[part] for item in before)
        for part in (0, 1)
    )


def cut_sources(path: Sequence[Candidate], nec: int) -> list[Candidate]:
    """Fits of the path with about 1, 1.5, 2.5 and 4 times the wanted number of concepts."""
    chosen: dict[str, Candidate] = {}
    for factor in _CANDIDATE_FACTORS:
        wide = [item for item in path if item.packed.effective_concepts >= factor * nec]
        for source in (wide or path[-1:])[:1]:
            chosen[source.name] = source
    return list(chosen.values())
