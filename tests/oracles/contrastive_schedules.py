"""Slow float64 versions of contrastive losses with one temperature per row, and of schedules."""

import math

import numpy as np
from numpy.typing import NDArray

from tests.oracles.contrastive import _cosines

Array = NDArray[np.float64]


def nt_xent(first: Array, second: Array, temperatures: Array) -> float:
    """SimCLR, eq. 1: the mean over both views of each photo, one anchor at a time."""
    views = np.concatenate([first, second])
    cosines = _cosines(views, views)
    n, total = len(first), 0.0
    for anchor in range(2 * n):
        partner = (anchor + n) % (2 * n)
        tau = temperatures[anchor % n]
        bottom = sum(math.exp(cosines[anchor, k] / tau) for k in range(2 * n) if k != anchor)
        total -= math.log(math.exp(cosines[anchor, partner] / tau) / bottom)
    return total / (2 * n)


def clip(images: Array, texts: Array, temperatures: Array) -> float:
    """The mean of both cross-entropies, each row of logits over its own temperature."""
    cosines, n, total = _cosines(images, texts), len(images), 0.0
    for i in range(n):
        for row in (cosines[i], cosines[:, i]):
            values = [math.exp(v / temperatures[i]) for v in row]
            total -= math.log(values[i] / sum(values))
    return total / (2 * n)


def siglip(images: Array, texts: Array, temperatures: Array, bias: float) -> float:
    """Each pair by itself: yes on the diagonal, no elsewhere."""
    cosines, total = _cosines(images, texts), 0.0
    for i in range(len(images)):
        for j in range(len(texts)):
            logit = cosines[i, j] / temperatures[i] + bias
            sign = 1.0 if i == j else -1.0
            total += math.log(1 + math.exp(-sign * logit))
    return total / len(images)


def class_separation(features: Array, labels: NDArray[np.int64]) -> float:
    """Kornblith et al. 2021, eq. 11, pair by pair."""
    classes = sorted(set(labels.tolist()))
    distance = 1 - _cosines(features, features)
    within = overall = 0.0
    for first in classes:
        for second in classes:
            pairs = [
                distance[m, n]
                for m in np.flatnonzero(labels == first)
                for n in np.flatnonzero(labels == second)
            ]
            overall += sum(pairs) / len(pairs) / len(classes) ** 2
            if first == second:
                within += sum(pairs) / len(pairs) / len(classes)
    return 1 - within / overall


def nearest_class(train: Array, labels: NDArray[np.int64], row: Array, k: int) -> int:
    """Majority of the k rows with the largest cosines, the nearer one winning ties."""
    order = sorted(range(len(train)), key=lambda i: -float(train[i] @ row))
    near = [int(labels[i]) for i in order[:k]]
    return max(near, key=lambda c: (near.count(c), -near.index(c)))
