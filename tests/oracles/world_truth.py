"""Slow versions of what `dncbm.data.world_truth` computes."""

from itertools import permutations

import numpy as np


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r by its definition, one pair of columns at a time."""
    a, b = a - sum(a) / len(a), b - sum(b) / len(b)
    scale = (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / scale) if scale > 0 else 0.0


def best_matching(matrix: np.ndarray) -> float:
    """The largest mean over all one-to-one assignments, by trying each; no partner counts 0."""
    t, c = matrix.shape
    padded = np.concatenate([matrix, np.zeros((t, max(0, t - c)))], axis=1)
    return max(
        sum(padded[i, chosen[i]] for i in range(t)) / t
        for chosen in permutations(range(padded.shape[1]), t)
    )
