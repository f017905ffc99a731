"""A bottleneck measured on labelled images, and which concepts are behind its mistakes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float, Int

from dncbm.errors import InvalidInput
from dncbm.probe.metrics import probe_logits, softmax
from dncbm.probe.store import Cbm

CodeBlocks = Callable[[Any], Iterable[Any]]
"""From positions (m,) among the images to their codes, in blocks of rows, in that order."""

BINS = 15
CELLS = 10
"""Kinds of mistakes that are looked into."""
CONCEPTS = 5
"""Concepts named per kind of mistake."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ConfidenceBin:
    """Images whose confidence lies in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean probability of the predicted class."""
    accuracy: float


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How far the probabilities can be believed (Guo et al. 2017)."""

    temperature: float
    ece: float
    """Expected calibration error before the temperature, in [0, 1]."""
    ece_calibrated: float
    bins: tuple[ConfidenceBin, ...]
    """Of the calibrated probabilities; bins without images are left out."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """Images of one class that were taken for another."""

    true: int
    predicted: int
    images: int
    concepts: tuple[tuple[int, float], ...]
    """Concepts with what they add, on average over these images, to the logit of the wrong class
    beyond that of the right one; largest first, only what adds."""


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """What a bottleneck achieves on labelled images."""

    images: int
    accuracy: float
    """Of the dense probe."""
    by_nec: dict[int, float]
    """Accuracy of each head of few concepts."""
    calibration: Calibration
    confusion: Int[np.ndarray, "k k"]
    """Images by true class (row) and predicted class (column), dense probe."""
    mistakes: list[Mistake]
    """The most frequent ones first."""


def evaluate(cbm: Cbm, blocks: CodeBlocks, labels: Int[np.ndarray, " n"]) -> Evaluation:
    """Measure every head; holds one block of codes at a time and a few numbers per image.

    Args:
        cbm: the bottleneck.
        blocks: gives the codes of the images at some positions.
        labels: class index per image.

    Raises:
        InvalidInput: no images.
    """
    if not len(labels):
        raise InvalidInput("There are no labelled images to evaluate on.")
    guesses, raw, calibrated, right = _decisions(cbm, blocks, labels)
    correct, k = guesses == labels, len(cbm.classes)
    counts = np.bincount(labels * k + guesses, minlength=k * k).reshape(k, k)
    bins = _bins(calibrated, correct)
    return Evaluation(
        images=len(labels),
        accuracy=float(correct.mean()),
        by_nec={nec: count / len(labels) for nec, count in right.items()},
        calibration=Calibration(
            temperature=cbm.temperature,
            ece=_gap(_bins(raw, correct), len(labels)),
            ece_calibrated=_gap(bins, len(labels)),
            bins=bins,
        ),
        confusion=counts,
        mistakes=_mistakes(cbm, blocks, labels, guesses, counts),
    )


def _decisions(
    cbm: Cbm, blocks: CodeBlocks, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, int]]:
    """Per image guess, confidence and calibrated confidence; per head of few how many right."""
    guesses = np.zeros(len(labels), np.int64)
    raw, calibrated = np.zeros(len(labels)), np.zeros(len(labels))
    right, done = dict.fromkeys(sorted(cbm.nec_probes), 0), 0
    for block in blocks(np.arange(len(labels))):
        part = slice(done, done + block.shape[0])
        logits = probe_logits(cbm.probe, block)
        guesses[part] = logits.argmax(axis=1)
        raw[part] = softmax(logits).max(axis=1)
        calibrated[part] = softmax(logits / cbm.temperature).max(axis=1)
        for nec in right:
            few = probe_logits(cbm.nec_probes[nec], block).argmax(axis=1)
            right[nec] += int((few == labels[part]).sum())
        done += block.shape[0]
    return guesses, raw, calibrated, right


def _bins(confidence: Float[np.ndarray, " n"], correct: np.ndarray) -> tuple[ConfidenceBin, ...]:
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return tuple(
        ConfidenceBin(
            low=int(index) / BINS,
            high=(int(index) + 1) / BINS,
            images=int((place == index).sum()),
            confidence=float(confidence[place == index].mean()),
            accuracy=float(correct[place == index].mean()),
        )
        for index in np.unique(place)
    )


def _gap(bins: Sequence[ConfidenceBin], images: int) -> float:
    return sum(abs(one.confidence - one.accuracy) * one.images for one in bins) / images


def _mistakes(
    cbm: Cbm, blocks: CodeBlocks, labels: np.ndarray, guesses: np.ndarray, counts: np.ndarray
) -> list[Mistake]:
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CELLS]
    cells = [divmod(int(cell), len(counts)) for cell in order if wrong.flat[cell] > 0]
    found = []
    for true, predicted in cells:
        positions = np.flatnonzero((labels == true) & (guesses == predicted))
        found.append(
            Mistake(
                true=true,
                predicted=predicted,
                images=len(positions),
                concepts=_behind(cbm, blocks, positions, (true, predicted)),
            )
        )
    return found


def _behind(
    cbm: Cbm, blocks: CodeBlocks, positions: np.ndarray, cell: tuple[int, int]
) -> tuple[tuple[int, float], ...]:
    """The concepts that speak most for the wrong class against the right one."""
    total = sum(np.asarray(block.sum(axis=0)).ravel() for block in blocks(positions))
    weights = cbm.probe.weights.detach().cpu().double().numpy()
    added = total / len(positions) * (weights[cell[1]] - weights[cell[0]])
    order = np.argsort(-added, kind="stable")[:CONCEPTS]
    return tuple((int(c), float(added[c])) for c in order if added[c] > 0)
