"""Exchange of concepts, row by row and concept by concept in float64."""

import numpy as np


def worths(pre: np.ndarray, codes: np.ndarray, k: int | None, threshold: float) -> np.ndarray:
    """Sum over rows of z_j² less the square of the code that would move up."""
    total = np.zeros(codes.shape[1])
    for row, code in zip(pre, codes, strict=True):
        following = threshold
        if k is not None:
            rest = sorted(row, reverse=True)[k:]
            following = max(rest[0], 0.0) if rest else 0.0
        for concept, value in enumerate(code):
            if value > 0:
                total[concept] += value**2 - following**2
    return total


def entries(pre: np.ndarray, k: int | None, threshold: float) -> np.ndarray:
    """The smallest code that stays in each row."""
    if k is None:
        return np.full(len(pre), threshold)
    return np.array([max(sorted(row, reverse=True)[k - 1], 0.0) for row in pre])


def proposals(residuals: np.ndarray, count: int, over: int, rounds: int) -> np.ndarray:
    """Weighted means of the residuals in which each long residual is largest."""
    lengths = np.linalg.norm(residuals, axis=1)
    found = []
    for start in np.argsort(-lengths, kind="stable")[:count]:
        direction = residuals[start] / lengths[start]
        for _ in range(rounds):
            scores = [float(row @ direction) for row in residuals]
            best = sorted(range(len(scores)), key=lambda i: -scores[i])[:over]
            mean = sum(max(scores[i], 0.0) * residuals[i] for i in best)
            direction = mean / np.linalg.norm(mean)
        found.append(direction)
    return np.array(found)


def gain(
    residuals: np.ndarray, entry: np.ndarray, displaced: np.ndarray, direction: np.ndarray
) -> float:
    """Squared error that a direction takes off where its code exceeds the entry."""
    total = 0.0
    for row, bound, lost in zip(residuals, entry, displaced, strict=True):
        score = float(row @ direction)
        if score > bound:
            total += score**2 - lost**2
    return total


def reader(
    inputs: np.ndarray,
    residuals: np.ndarray,
    entry: np.ndarray,
    direction: np.ndarray,
    ridge: float,
) -> tuple[np.ndarray, float]:
    """Least squares of the wanted codes on centred rows, lengthened to read them in full."""
    wanted = np.array([float(r @ direction) for r in residuals])
    wanted = np.where(wanted > entry, wanted, 0.0)
    mean = inputs.mean(axis=0)
    centred = inputs - mean
    covariance = sum(np.outer(row, row) for row in centred) / len(centred)
    covariance += ridge * np.trace(covariance) / len(mean) * np.eye(len(mean))
    moment = sum(t * row for t, row in zip(wanted, centred, strict=True)) / len(centred)
    weights = np.linalg.inv(covariance) @ moment
    weights *= (wanted**2).sum() / sum(
        t * float(row @ weights) for t, row in zip(wanted, centred, strict=True)
    )
    return weights, -float(weights @ mean)
