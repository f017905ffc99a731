"""Heads with few concepts per class: cut from several fits, fitted again, the best one kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Bool

from dncbm.probe.ridge import refit
from dncbm.probe.select import Bench, Candidate
from dncbm.probe.solvers import Solution
from dncbm.probe.truncation import largest_weights

REFIT_STRENGTHS = (3e-4, 3e-5, 3e-6)
"""L2 penalties of the refits, strongest first, in units of the codes' total variance."""
_MIDDLE = 1
_HALVINGS = (8, 4, 2)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """Some weights of a fit, and the fit that a refit of them starts from."""

    name: str
    source: Candidate
    keep: Bool[np.ndarray, "c k"]
    start: Solution

    def starting_from(self, fit: Candidate) -> "_Cut":
        """The same cut, refitted from another fit."""
        return replace(self, start=fit.solution)


def nec_head(bench: Bench, sources: Sequence[Candidate], nec: int, scope: str) -> Candidate:
    """The best head with `nec` concepts per class, cut from one of several fits and refitted.

    Every cut is refitted at the middle strength, the most promising at every strength, and the
    best of these is returned.
    """
    if bench.validation is None:
        return _refitted(bench, next(_cuts(bench, sources[0], nec, scope)), _MIDDLE)
    cuts = _distinct([cut for source in sources for cut in _cuts(bench, source, nec, scope)])
    screened = [_refitted(bench, cut, _MIDDLE, "-screened") for cut in cuts]
    heads: list[Candidate] = []
    for promising in bench.finalists(screened):
        cut = cuts[screened.index(promising)].starting_from(promising)
        heads += [_refitted(bench, cut, strength) for strength in range(len(REFIT_STRENGTHS))]
    return bench.best(heads)


def _distinct(cuts: Sequence[_Cut]) -> list[_Cut]:
    """The cuts without those that keep the same weights under the same scale."""
    found: dict[tuple[int, bytes], _Cut] = {}
    for cut in cuts:
        found.setdefault((id(cut.source.design), np.packbits(cut.keep).tobytes()), cut)
    return list(found.values())


def _cuts(bench: Bench, source: Candidate, nec: int, scope: str) -> Iterator[_Cut]:
    """The weights to keep: the largest at once, and the largest after halving with refits.

    Halving gives correlated concepts the chance to take over the weight of those that went.
    """
    solution = source.solution
    name = f"nec{nec}-{source.name}"
    yield _Cut(f"{name}-direct", source, largest_weights(solution.weights, nec, scope), solution)
    wide = source.packed.effective_concepts
    widths = [factor * nec for factor in _HALVINGS if wide > factor * nec]
    for width in widths:
        keep = largest_weights(solution.weights, width, scope)
        cut = _Cut(f"{name}-at{width}", source, keep, solution)
        solution = _refitted(bench, cut, _MIDDLE, "-screened").solution
    if widths:
        keep = largest_weights(solution.weights, nec, scope)
        yield _Cut(f"{name}-halved", source, keep, solution)


def _refitted(bench: Bench, cut: _Cut, strength: int, suffix: str = "") -> Candidate:
    design = cut.source.design
    penalty = REFIT_STRENGTHS[strength] * design.total_variance()
    return bench.judge(
        f"{cut.name}-{REFIT_STRENGTHS[strength]:g}{suffix}",
        design,
        lambda: refit(design, cut.keep, penalty, bench.options, start=cut.start),
    )
