"""Slow float64 versions of the contrastive losses, written from the papers with plain loops."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _cosines(first: Array, second: Array) -> Array:
    out = np.zeros((len(first), len(second)))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            out[i, j] = sum(a * b) / math.sqrt(sum(a * a)) / math.sqrt(sum(b * b))
    return out


def _log_softmax_row(row: Array) -> list[float]:
    top = max(row)
    total = math.log(sum(math.exp(v - top) for v in row)) + top
    return [v - total for v in row]


def multi_positive_contrastive_loss(
    images: Array, texts: Array, groups: NDArray[np.int64], scale: float
) -> float:
    """UniCL (arXiv:2204.03610) eq. 1-3, one anchor at a time, both directions."""
    logits = scale * _cosines(images, texts)
    total = 0.0
    for i in range(len(images)):
        positives = [j for j in range(len(images)) if groups[j] == groups[i]]
        to_text, to_image = _log_softmax_row(logits[i]), _log_softmax_row(logits[:, i])
        total -= sum(to_text[j] for j in positives) / len(positives)
        total -= sum(to_image[j] for j in positives) / len(positives)
    return total / (2 * len(images))


def soft_label_loss(logits: Array, teacher_logits: Array, temperature: float) -> float:
    """Mean over rows of Σ p (log p − log q), p the softened teacher."""
    total = 0.0
    for given, wanted in zip(logits, teacher_logits, strict=True):
        log_p = _log_softmax_row(wanted / temperature)
        log_q = _log_softmax_row(given)
        total += sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
    return total / len(logits)


def similarity_distillation_loss(student: Array, teacher: Array, temperature: float) -> float:
    """KL from the teacher's neighbourhood of each row to the student's, among teacher rows."""
    return soft_label_loss(
        _cosines(student, teacher) / temperature, _cosines(teacher, teacher), temperature
    )
