"""B-cos losses and adaptive clipping, number by number."""

import math

import numpy as np

Array = np.ndarray


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def class_bce(logits: Array, labels: Array, uniform_off: bool) -> float:
    rows, classes = logits.shape
    total = 0.0
    for i in range(rows):
        for k in range(classes):
            target = float(labels[i, k]) if labels.ndim == 2 else float(labels[i] == k)
            if uniform_off:
                target = max(target, 1 / classes)
            z = float(logits[i, k])
            total -= target * log_sigmoid(z) + (1 - target) * log_sigmoid(-z)
    return total / (rows * classes)


def cosine(a: Array, b: Array) -> float:
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def pairwise(student: Array, teacher: Array, own: list[int], scale: float, shift: float) -> float:
    total = 0.0
    for i, s in enumerate(student):
        for j, t in enumerate(teacher):
            sign = 1.0 if own[i] == j else -1.0
            total -= log_sigmoid(sign * (scale * cosine(s, t) + shift))
    return total / len(student)


def clipped(weight: Array, gradient: Array, factor: float, eps: float) -> Array:
    """Of one parameter."""
    if weight.squeeze().ndim <= 1:
        limit = factor * max(math.sqrt(float((weight**2).sum())), eps)
        length = math.sqrt(float((gradient**2).sum()))
        return gradient if length <= limit else gradient * limit / max(length, 1e-6)
    return np.stack(
        [
            clipped(w.ravel(), g.ravel(), factor, eps).reshape(g.shape)
            for w, g in zip(weight, gradient, strict=True)
        ]
    )
