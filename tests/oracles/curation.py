"""Slow, plain versions of edits and of the equal-mass calibration error, in float64."""

import math

import numpy as np


def edited_logits(weights, bias, codes, classes, operations):
    """Logits (n, k) of one dense head after `remove` and `set_weight`, image by image."""
    k, c = weights.shape
    removed, replaced = set(), {}
    for operation in operations:
        if operation["op"] == "remove":
            removed.add(operation["concept"])
        if operation["op"] == "set_weight":
            replaced[classes.index(operation["class"]), operation["concept"]] = operation["weight"]
    found = np.zeros((len(codes), k))
    for n, row in enumerate(codes):
        for j in range(k):
            total = float(bias[j])
            for i in range(c):
                if i not in removed:
                    total += float(row[i]) * float(replaced.get((j, i), weights[j, i]))
            found[n, j] = total
    return found


def groups_of(names, pairs):
    """Group per concept where equal names and the given pairs belong together: by closure."""
    groups = list(range(len(names)))
    changed = True
    while changed:
        changed = False
        for a in range(len(names)):
            for b in range(len(names)):
                alike = names[a] == names[b] or (a, b) in pairs or (b, a) in pairs
                if alike and groups[a] != groups[b]:
                    low = min(groups[a], groups[b])
                    groups[a] = groups[b] = low
                    changed = True
    return groups


def equal_mass_error(probabilities, labels, bins):
    """Sum over bins of (rows in the bin / rows) * |mean confidence - share right|."""
    rows = sorted(
        (max(p), int(np.argmax(p) == y)) for p, y in zip(probabilities, labels, strict=True)
    )
    n, total, start = len(rows), 0.0, 0
    for number in range(bins):
        size = n // bins + (1 if number < n % bins else 0)
        part = rows[start : start + size]
        start += size
        if part:
            confidence = math.fsum(p for p, _ in part) / size
            right = sum(r for _, r in part) / size
            total += size / n * abs(confidence - right)
    return total
