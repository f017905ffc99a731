"""How often a name is right, measured on labelled images and held to a target.

The names are made without labels. Concepts that are active almost only on one class have a right
answer, so labels can judge their names; a rule fitted on some of them rejects names of others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int64
from scipy.special import betaincinv
from sklearn.linear_model import LogisticRegression
from torch import Tensor

LEAST_JUDGED = 20
"""Fewer concepts with a right answer than this say too little to reject names by."""
_PURITY = 0.6
_LEAST_IMAGES = 5
_LIKENESS = 0.5
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Labelled:
    """What labels say about the concepts."""

    owners: Int64[np.ndarray, "c"]
    """Class that a concept stands for, -1 for none."""
    classes: Float[Tensor, "k d"]
    """Text embeddings of the class names."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Which names pass, and what is known of those that do."""

    passed: Bool[np.ndarray, "c"]
    metrics: dict[str, Any]


def class_owners(
    codes: sp.csr_matrix, labels: Int64[np.ndarray, "n"], *, purity: float = _PURITY
) -> Int64[np.ndarray, "c"]:
    """The class that holds at least `purity` of a concept's code mass, or -1.

    Mass is averaged per class, so that a class of many photos does not own everything; labels of
    -1 are left out, and so are concepts active on fewer than 5 labelled images.
    """
    known = np.unique(labels[labels >= 0])
    if len(known) < 2:
        return np.full(codes.shape[1], -1, dtype=np.int64)
    mass = np.stack([np.asarray(codes[labels == k].mean(axis=0)).ravel() for k in known])
    share = mass / np.maximum(mass.sum(axis=0), 1e-12)
    active = np.asarray((codes[labels >= 0] > 0).sum(axis=0)).ravel()
    clear = (share.max(axis=0) >= purity) & (active >= _LEAST_IMAGES)
    return np.where(clear, known[share.argmax(axis=0)], -1).astype(np.int64)


def names_class(
    words: Float[Tensor, "m d"], classes: Float[Tensor, "k d"], owners: Int64[np.ndarray, "m"]
) -> Bool[np.ndarray, "m"]:
    """Whether each word, by its text alone, means the class that its concept stands for.

    It does if that class name is the nearest one and has a cosine of at least 0.5. All of unit
    length, centred alike. Against lists of right words this agreed on 89 to 99.6 % of the names
    (docs/benchmarks/naming.md).
    """
    cosines = (words @ classes.T).numpy()
    own = cosines[np.arange(len(owners)), owners]
    return (cosines.argmax(axis=1) == owners) & (own >= _LIKENESS)


def reject(
    evidence: Float[np.ndarray, "c f"],
    right: Bool[np.ndarray, "c"],
    judged: Bool[np.ndarray, "c"],
    *,
    target: float | None,
    seed: int = 0,
) -> Rejection:
    """Reject names whose evidence promises less than `target` precision.

    A logistic regression on the evidence gives each name a probability of being right; the
    threshold is the lowest at which the names above it are right often enough. The precision
    reported is that of names judged by a rule fitted without them (5 folds).

    Args:
        evidence: of every concept, such as score, margin and agreement.
        right: whether the name is right; read where `judged`.
        judged: concepts with a right answer that would be named.
        target: precision in (0, 1); None only measures.
        seed: of the folds.

    Returns:
        passed (all, where fewer than 20 concepts are judged or there is no target), and metrics:
        judged, target, kept (share of the judged that pass), precision with its 95 % interval
        (Clopper and Pearson), all on held-out concepts, and the precision at coverages.
    """
    rows = np.flatnonzero(judged)
    everything = np.ones(len(evidence), dtype=bool)
    if len(rows) < LEAST_JUDGED:
        return Rejection(everything, {"judged": len(rows)})
    folds = np.random.default_rng(seed).permutation(len(rows)) % _FOLDS
    passed, chance = np.ones(len(rows), dtype=bool), np.zeros(len(rows))
    for fold in range(_FOLDS):
        held, fitted = rows[folds == fold], rows[folds != fold]
        rule = _Rule(evidence[fitted], right[fitted], target)
        chance[folds == fold] = rule.chance(evidence[held])
        passed[folds == fold] = rule(evidence[held])
    hits, total = int(right[rows][passed].sum()), int(passed.sum())
    low, high = clopper_pearson(hits, total)
    metrics = {
        "judged": len(rows),
        "target": target,
        "kept": total / len(rows),
        "precision": hits / total if total else None,
        "interval": [low, high],
        "at_coverage": precision_at_coverage(chance, right[rows]),
    }
    return Rejection(_Rule(evidence[rows], right[rows], target)(evidence), metrics)


class _Rule:
    """Names above the threshold of one fit pass."""

    def __init__(self, evidence: np.ndarray, right: np.ndarray, target: float | None) -> None:
        self._mean, self._scale = evidence.mean(axis=0), evidence.std(axis=0) + 1e-12
        both = 0 < right.sum() < len(right)
        self._model = LogisticRegression().fit(self._plain(evidence), right) if both else None
        self._constant = float(right.mean())
        self.threshold = (
            -np.inf if target is None else _lowest(self.chance(evidence), right, target)
        )

    def _plain(self, evidence: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (evidence - self._mean) / self._scale
        return scaled

    def chance(self, evidence: np.ndarray) -> np.ndarray:
        if self._model is None:
            return np.full(len(evidence), self._constant)
        found: np.ndarray = self._model.predict_proba(self._plain(evidence))[:, 1]
        return found

    def __call__(self, evidence: np.ndarray) -> np.ndarray:
        passed: np.ndarray = self.chance(evidence) >= self.threshold
        return passed


def _lowest(chance: np.ndarray, right: np.ndarray, target: float) -> float:
    """The lowest threshold at which those at or above it are right often enough; inf if none."""
    order = np.argsort(-chance, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # Equal chances pass together.
    last = np.append(np.diff(chance[order]) != 0, True)
    good = np.flatnonzero((share >= target) & last)
    return float(chance[order][good[-1]]) if len(good) else np.inf


def clopper_pearson(hits: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share; (0, 1) where nothing was drawn."""
    if total == 0:
        return 0.0, 1.0
    tail = (1.0 - confidence) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, total - hits + 1, tail))
    high = 1.0 if hits == total else float(betaincinv(hits + 1, total - hits, 1.0 - tail))
    return low, high


def precision_at_coverage(
    confidence: Float[np.ndarray, "m"],
    right: Bool[np.ndarray, "m"],
    shares: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 1.0),
) -> list[list[float]]:
    """[share, precision of the most confident names that make up the share]."""
    order = np.argsort(-np.asarray(confidence), kind="stable")
    counts = [max(1, round(share * len(order))) for share in shares]
    hits = np.cumsum(np.asarray(right)[order])
    return [
        [share, float(hits[count - 1] / count)] for share, count in zip(shares, counts, strict=True)
    ]
