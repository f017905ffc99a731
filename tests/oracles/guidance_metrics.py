"""Group accuracy, F1, average precision and Pareto fronts, counted one by one."""

import math
from collections.abc import Sequence

import numpy as np


def group_accuracy(right: Sequence[bool], groups: Sequence[str | None]) -> dict[str, float]:
    found = {}
    for group in groups:
        if group is not None:
            mine = [bool(r) for r, g in zip(right, groups, strict=True) if g == group]
            found[group] = sum(mine) / len(mine)
    return found


def f1(logits: np.ndarray, truth: np.ndarray) -> float | None:
    """Of all entries together; None where nothing is there and nothing is named."""
    hits = misses = extras = 0
    for logit, there in zip(logits.ravel(), truth.ravel(), strict=True):
        hits += logit > 0 and there
        misses += logit <= 0 and there
        extras += logit > 0 and not there
    if hits + misses + extras == 0:
        return None
    if hits == 0:
        return 0.0
    precision, recall = hits / (hits + extras), hits / (hits + misses)
    return 2 * precision * recall / (precision + recall)


def macro_f1(logits: np.ndarray, truth: np.ndarray) -> float:
    found = [f1(logits[:, k], truth[:, k]) for k in range(logits.shape[1])]
    counted = [value for value in found if value is not None]
    return sum(counted) / len(counted) if counted else 0.0


def average_precision(logits: np.ndarray, truth: np.ndarray) -> float:
    total, before = 0.0, 0.0
    for threshold in sorted(set(logits.tolist()), reverse=True):
        named = [bool(t) for x, t in zip(logits, truth, strict=True) if x >= threshold]
        recall = sum(named) / truth.sum()
        total += (recall - before) * sum(named) / len(named)
        before = recall
    return total


def pareto_front(points: Sequence[Sequence[float]], width: float) -> list[int]:
    """By comparing every two points."""

    def level(value: float) -> float:
        return float(round(value / width)) if width else value

    kept = []
    for i, mine in enumerate(points):
        if any(math.isnan(value) for value in mine):
            continue
        beaten = False
        for other in points:
            if any(math.isnan(value) for value in other):
                continue
            pairs = [(level(a), level(b)) for a, b in zip(other, mine, strict=True)]
            beaten |= all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
        if not beaten:
            kept.append(i)
    return kept
