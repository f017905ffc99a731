"""Metrics of dictionaries written slowly, straight from their definitions, in float64."""

import math

import numpy as np

from tests.oracles.sae import best_assignment

Array = np.ndarray


def cosine(a: Array, b: Array) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(sum(float(x) ** 2 for x in a)) * math.sqrt(sum(float(y) ** 2 for y in b))
    return dot / lengths


def monosemanticity(codes: Array, embeddings: Array) -> list[float]:
    """Pach et al. 2025: every pair of rows, min-max scaled codes, NaN without pairs."""
    scores = []
    for column in codes.astype(np.float64).T:
        low, high = min(column), max(column)
        scaled = [(a - low) / (high - low) if high > low else 0.0 for a in column]
        likeness = weight = 0.0
        for n in range(len(scaled)):
            for m in range(n + 1, len(scaled)):
                likeness += scaled[n] * scaled[m] * cosine(embeddings[n], embeddings[m])
                weight += scaled[n] * scaled[m]
        scores.append(likeness / weight if weight > 0 else math.nan)
    return scores


def mean_cosine(embeddings: Array) -> float:
    n = len(embeddings)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    return sum(cosine(embeddings[i], embeddings[j]) for i, j in pairs) / len(pairs)


def kernel(rows: Array) -> Array:
    """Inner products, written out."""
    n = len(rows)
    return np.array([[float(np.dot(rows[i], rows[j])) for j in range(n)] for i in range(n)])


def neighbours(k: Array, row: int, count: int) -> set[int]:
    others = [j for j in range(len(k)) if j != row]
    return set(sorted(others, key=lambda j: (-k[row, j], j))[:count])


def hsic(a: Array, b: Array) -> float:
    """Song et al. 2012, equation 5, with the matrix product that the formula has."""
    n = len(a)
    a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
    ones = np.ones(n)
    inner = ones @ a @ ones * (ones @ b @ ones) / ((n - 1) * (n - 2))
    return (np.trace(a @ b) + inner - 2 * (ones @ (a @ b) @ ones) / (n - 2)) / (n * (n - 3))


def cknna(first: Array, second: Array, count: int) -> float:
    """Huh et al. 2024, as their published code does it (without the 1e-6)."""

    def shared(a: Array, b: Array) -> float:
        kept_a, kept_b = np.zeros_like(a), np.zeros_like(b)
        for i in range(len(a)):
            for j in neighbours(a, i, count) & neighbours(b, i, count):
                kept_a[i, j], kept_b[i, j] = a[i, j], b[i, j]
        return hsic(kept_a, kept_b)

    a, b = kernel(first), kernel(second)
    return shared(a, b) / math.sqrt(shared(a, a) * shared(b, b))


def coherence(dictionary: Array) -> tuple[float, float]:
    n = len(dictionary)
    values = [
        abs(cosine(dictionary[i], dictionary[j])) for i in range(n) for j in range(n) if i != j
    ]
    return max(values), sum(values) / len(values)


def nearest_cosine(found: Array, wanted: Array) -> float:
    return sum(max(cosine(row, other) for other in found) for row in wanted) / len(wanted)


def matched_cosine(first: Array, second: Array) -> float:
    """Mean cosine of the best one-to-one pairing, by trying every permutation."""
    table = np.array([[cosine(row, other) for other in second] for row in first])
    return best_assignment(table) / len(first)
