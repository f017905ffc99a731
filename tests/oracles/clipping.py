"""Adaptive gradient clipping, unit by unit, from Brock et al. 2021, eq. 3."""

import math

import numpy as np


def clipped(weights: np.ndarray, gradient: np.ndarray, factor: float) -> np.ndarray:
    """The gradient after clipping; the first of several axes counts units."""
    if weights.ndim < 2:
        return _clipped_unit(weights, gradient, factor)
    return np.stack([_clipped_unit(w, g, factor) for w, g in zip(weights, gradient, strict=True)])


def _clipped_unit(weights: np.ndarray, gradient: np.ndarray, factor: float) -> np.ndarray:
    limit = factor * max(math.sqrt(sum(float(w) ** 2 for w in weights.flat)), 1e-3)
    found = math.sqrt(sum(float(g) ** 2 for g in gradient.flat))
    return np.asarray(gradient * (limit / found) if found > limit else gradient)
