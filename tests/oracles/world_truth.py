"""Slow versions of what `dncbm.data.world_truth` computes."""

from itertools import permutations

import numpy as np


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r by its definition, one pair of columns at a time."""
    a, b = a - sum(a) / len(a), b - sum(b) / len(b)
    scale = (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / scale) if scale > 0 else 0.0


def best_matching(matrix: np.ndarray) -> float:
    """The largest mean over all one-to-one assignments, by trying each."""
    t, c = matrix.shape
    return max(
        sum(matrix[i, chosen[i]] for i in range(t)) / t for chosen in permutations(range(c), t)
    )
