"""Attribution methods by finite differences, and the grid pointing game by counting."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
_STEP = 1e-6


def slope(function: Callable[[Array], float], x: Array) -> Array:
    """Central differences."""
    found = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        moved = np.zeros(x.shape)
        moved[place] = _STEP
        found[place] = (function(x + moved) - function(x - moved)) / (2 * _STEP)
    return found


def integrated(function: Callable[[Array], float], x: Array, baseline: Array, steps: int) -> Array:
    total = np.zeros(x.shape)
    for step in range(steps):
        total += slope(function, baseline + (x - baseline) * (step + 0.5) / steps)
    return ((x - baseline) * total / steps).sum(axis=0)


def grad_cam(head: Callable[[Array], float], maps: Array) -> Array:
    """Before it is upsampled."""
    gradients = slope(head, maps)
    return np.maximum(sum(g.mean() * m for g, m in zip(gradients, maps, strict=True)), 0)


def layer_cam(head: Callable[[Array], float], maps: Array) -> Array:
    return np.maximum((np.maximum(slope(head, maps), 0) * maps).sum(axis=0), 0)


def share_in_cell(attribution: Array, side: int, cell: int) -> float:
    high, wide = attribution.shape[0] // side, attribution.shape[1] // side
    own = total = 0.0
    for y in range(attribution.shape[0]):
        for x in range(attribution.shape[1]):
            value = max(attribution[y, x], 0.0)
            total += value
            if (y // high) * side + x // wide == cell:
                own += value
    return own / total if total > 0 else 0.0


def window_mean(maps: Array, side: int) -> Array:
    reach, found = side // 2, np.zeros(maps.shape)
    for y in range(maps.shape[0]):
        for x in range(maps.shape[1]):
            rows, columns = (
                slice(max(y - reach, 0), y + reach + 1),
                slice(max(x - reach, 0), x + reach + 1),
            )
            found[y, x] = maps[rows, columns].sum() / side**2
    return found
