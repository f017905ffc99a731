"""The losses of B-cos training, from their formulas, one term at a time in float64."""

import math

import numpy as np


def _log_sigmoid(z: float) -> float:
    return -math.log1p(math.exp(-z)) if z > 0 else z - math.log1p(math.exp(z))


def binary_cross_entropy(logits: np.ndarray, targets: np.ndarray, *, floor: bool) -> float:
    """Mean over all entries of -t log σ(z) - (1 - t) log(1 - σ(z)), t at least 1/K if `floor`."""
    total = 0.0
    for row, wanted in zip(logits, targets, strict=True):
        for z, t in zip(row, wanted, strict=True):
            t = max(t, 1 / len(row)) if floor else t
            total -= t * _log_sigmoid(z) + (1 - t) * _log_sigmoid(-z)
    return total / logits.size


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between two vectors."""
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    lengths = [math.sqrt(sum(float(x) ** 2 for x in vector)) for vector in (a, b)]
    return dot / (lengths[0] * lengths[1])


def pairwise_sigmoid(
    student: np.ndarray, teacher: np.ndarray, first: int, scale: float, bias: float
) -> float:
    """Each student's row with each of the teacher's: a yes-or-no question."""
    total = 0.0
    for i, s in enumerate(student):
        for j, t in enumerate(teacher):
            sign = 1 if j == first + i else -1
            total -= _log_sigmoid(sign * (scale * cosine(s, t) + bias))
    return total / len(student)


def cosine_distance(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean of 1 - cos."""
    return sum(1 - cosine(s, t) for s, t in zip(student, teacher, strict=True)) / len(student)
