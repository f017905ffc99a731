"""How good a probe is, and how many concepts its decisions rest on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar

from dncbm.errors import InvalidInput
from dncbm.probe.matrix import Codes, Matrix, code_matrix
from dncbm.probe.model import Probe

_BLOCK_ROWS = 512
_MAX_LOG_TEMPERATURE = 4.0


def probe_logits(probe: Probe, codes: Codes) -> Float[np.ndarray, "n k"]:
    """Logits of many rows in float64, dense or sparse codes."""
    matrix = code_matrix(codes)
    if matrix.shape[1] != probe.num_concepts:
        raise InvalidInput(
            f"The codes have {matrix.shape[1]} concepts, the probe reads {probe.num_concepts}. "
            "Use the codes of the dictionary that the probe was trained on."
        )
    weights = probe.weights.detach().cpu().double().numpy()
    return matrix @ weights.T + probe.bias.detach().cpu().double().numpy()


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Probabilities of each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def cross_entropy(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean negative log probability of the true class, in nats."""
    peak = logits.max(axis=1)
    norm = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
    return float((norm - logits[np.arange(len(labels)), labels]).mean())


def accuracy(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Share of rows whose largest logit is the true class, in [0, 1]."""
    return float((logits.argmax(axis=1) == labels).mean())


def confusion(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, "k k"]:
    """Number of rows by true class (row) and predicted class (column)."""
    k = logits.shape[1]
    counts = np.bincount(labels * k + logits.argmax(axis=1), minlength=k * k)
    return counts.reshape(k, k)


def per_class_accuracy(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " k"]:
    """Accuracy within each true class; NaN for a class without rows."""
    counts = confusion(logits, labels)
    totals = counts.sum(axis=1)
    return np.where(totals > 0, np.diag(counts) / np.maximum(totals, 1), np.nan)


def balanced_accuracy(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean of the per-class accuracies, over the classes that occur."""
    return float(np.nanmean(per_class_accuracy(logits, labels)))


def calibration_error(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], bins: int = 15
) -> float:
    """Expected calibration error (Guo et al. 2017): mean |confidence - accuracy| over bins.

    Equal-width bins `(low, high]` of the confidence in the predicted class, weighed by size.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def equal_mass_error(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], bins: int = 15
) -> float:
    """Expected calibration error over bins of equally many rows (Nguyen, O'Connor 2015).

    Where confidences crowd near 1, bins of equal width put most rows into one. Rows of equal
    confidence are ordered by whether they are right, so that the order of rows does not matter.
    """
    confidence = probabilities.max(axis=1)
    correct = (probabilities.argmax(axis=1) == labels).astype(float)
    order = np.lexsort((correct, confidence))
    gaps = [(confidence[part] - correct[part]).sum() for part in np.array_split(order, bins)]
    return float(np.abs(gaps).sum() / len(labels))


def calibration(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], temperature: float
) -> dict[str, int | float]:
    """How honest probabilities are, with the temperature (`ece`) and without: equal-mass bins."""
    return {
        "images": len(labels),
        "ece": equal_mass_error(softmax(logits / temperature), labels),
        "ece_uncalibrated": equal_mass_error(softmax(logits), labels),
    }


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """The temperature T, in [e**-4, e**4], that calibrates `softmax(logits / T)` on these rows.

    T minimises the cross entropy with targets as Platt (1999, "Probabilistic outputs for SVMs")
    smooths them: n rows give the true class (n + 1) / (n + 2) and the others equal shares of the
    rest. It is what n rows can show by Laplace's rule of succession. Without it, rows that are
    all classified right would send T to its bound and every probability to 100 %; with it, six
    such rows print about 87 %, and for thousands of rows nothing changes.
    """
    n, k = logits.shape
    missing = 1.0 / (n + 2)
    true = logits[np.arange(n), labels]
    # Of the smoothed target, sum_j t_j z_j: the others' mean logit is (sum - true) / (k - 1).
    targets = (1.0 - missing) * true + missing * (logits.sum(axis=1) - true) / max(k - 1, 1)

    def smoothed(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return cross_entropy(scaled, labels) + float((true - targets).mean() / np.exp(log_t))

    result = minimize_scalar(
        smoothed,
        bounds=(-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(result.x))


def concepts_per_decision(
    probe: Probe, codes: Codes, shares: Sequence[float] = (0.9, 0.95, 0.99)
) -> Int[np.ndarray, "n s"]:
    """Per row, the fewest concepts that hold each share of the predicted logit.

    The mass of a concept is the absolute value of its contribution to the predicted class; 0
    where no concept contributes.
    """
    matrix = code_matrix(codes)
    predicted = probe_logits(probe, matrix).argmax(axis=1)
    weights = np.abs(probe.weights.detach().cpu().double().numpy())
    counts = np.zeros((matrix.shape[0], len(shares)), dtype=np.int64)
    for start in range(0, matrix.shape[0], _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        counts[rows] = _fewest(_masses(matrix[rows], weights, predicted[rows]), shares)
    return counts


def _masses(
    block: Matrix, weights: Float[np.ndarray, "k c"], predicted: Int[np.ndarray, " m"]
) -> Float[np.ndarray, "m a"]:
    """Absolute contributions of each row, of sparse codes only the stored ones, padded by zeros."""
    if not sp.issparse(block):
        return np.abs(block) * weights[predicted]
    sizes = np.diff(block.indptr)
    row = np.repeat(np.arange(block.shape[0]), sizes)
    masses = np.zeros((block.shape[0], max(int(sizes.max(initial=0)), 1)))
    place = np.arange(len(row)) - block.indptr[row]
    masses[row, place] = np.abs(block.data) * weights[predicted[row], block.indices]
    return masses


def _fewest(mass: Float[np.ndarray, "m a"], shares: Sequence[float]) -> Int[np.ndarray, "m s"]:
    held = np.cumsum(-np.sort(-mass, axis=1), axis=1)
    total = held[:, -1:]
    # The tolerance keeps a share that is reached exactly from being missed by rounding.
    short = [(held < share * total * (1 - 1e-12)).sum(axis=1) + 1 for share in shares]
    return np.where(total > 0, np.stack(short, axis=1), 0)


def contributing_concepts(probe: Probe, codes: Codes, share: float = 0.95) -> float:
    """NCC: mean over rows of the fewest concepts that hold `share` of the predicted logit."""
    return float(concepts_per_decision(probe, codes, (share,)).mean())


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassConcepts:
    """What sets a class apart: its largest class-mean centred codes."""

    concepts: Int[np.ndarray, " top"]
    values: Float[np.ndarray, " top"]
    """Mean code over the class minus the mean over all rows, largest first."""


def class_mean_codes(
    codes: Codes, labels: Int[np.ndarray, " n"], num_classes: int
) -> Float[np.ndarray, "k c"]:
    """Mean code of each class minus the mean over all rows; zero for a class without rows."""
    matrix: Matrix = code_matrix(codes)
    ones, place = np.ones(len(labels)), (labels, np.arange(len(labels)))
    members = sp.csr_array((ones, place), shape=(num_classes, matrix.shape[0]))
    sums = members @ matrix
    counts = np.bincount(labels, minlength=num_classes)[:, None]
    means = (sums.toarray() if sp.issparse(sums) else sums) / np.maximum(counts, 1.0)
    overall = np.asarray(matrix.mean(axis=0)).ravel()
    return np.where(counts > 0, means - overall, 0.0)


def top_class_concepts(
    codes: Codes, labels: Int[np.ndarray, " n"], num_classes: int, *, top: int = 10
) -> list[ClassConcepts]:
    """Global explanation: for each class the concepts whose mean code exceeds the average most."""
    centred = class_mean_codes(codes, labels, num_classes)
    order = np.argsort(-centred, axis=1, kind="stable")[:, :top]
    return [
        ClassConcepts(concepts=chosen, values=centred[index, chosen])
        for index, chosen in enumerate(order)
    ]
