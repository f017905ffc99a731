"""Slow naming from the definitions: plain loops, float64, no FAISS."""

import math

import numpy as np


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(sum(float(x) ** 2 for x in vector))


def cosines(direction: np.ndarray, words: np.ndarray) -> list[float]:
    d = unit(direction.astype(np.float64))
    return [sum(float(a) * float(b) for a, b in zip(d, unit(w), strict=True)) for w in words]


def centred(words: np.ndarray) -> np.ndarray:
    rows = np.stack([unit(word.astype(np.float64)) for word in words])
    mean = sum(rows) / len(rows)
    return np.stack([row - mean for row in rows])


def without_axis(direction: np.ndarray, axis: np.ndarray) -> np.ndarray:
    a, d = unit(axis.astype(np.float64)), unit(direction.astype(np.float64))
    along = sum(float(x) * float(y) for x, y in zip(a, d, strict=True))
    return np.array([x - along * y for x, y in zip(d, a, strict=True)])


def ranking(direction: np.ndarray, words: np.ndarray) -> list[tuple[int, float]]:
    """Every word with its cosine, best first, ties (to 7 digits) by the lower row."""
    scores = cosines(direction, words)
    order = sorted(range(len(scores)), key=lambda i: (-round(scores[i], 7), i))
    return [(i, scores[i]) for i in order]


def moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased covariance of rows, entry by entry."""
    n, d = rows.shape
    mean = np.array([sum(rows[:, j]) / n for j in range(d)])
    covariance = np.empty((d, d))
    for i in range(d):
        for j in range(d):
            pairs = zip(rows[:, i], rows[:, j], strict=True)
            covariance[i, j] = sum((a - mean[i]) * (b - mean[j]) for a, b in pairs) / (n - 1)
    return mean, covariance


def false_name_threshold(null: np.ndarray, words: np.ndarray, rate: float) -> float:
    """The linearly interpolated (1 - rate) quantile of each null direction's best cosine."""
    best = sorted(max(cosines(direction, words)) for direction in null)
    place = (1.0 - rate) * (len(best) - 1)
    low = math.floor(place)
    high = min(low + 1, len(best) - 1)
    return best[low] + (place - low) * (best[high] - best[low])


def top_rows(codes: np.ndarray, concept: int, k: int) -> list[tuple[int, float]]:
    """The k rows with the largest positive code of a concept, ties by the earlier row."""
    active = [(row, float(code)) for row, code in enumerate(codes[:, concept]) if code > 0]
    return sorted(active, key=lambda pair: (-pair[1], pair[0]))[:k]


def prototype(codes: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Unit direction from the mean image to one concept's code-weighted mean image."""
    rows = [unit(image.astype(np.float64)) for image in images]
    weighted = sum(code * row for code, row in zip(codes, rows, strict=True)) / sum(codes)
    return unit(weighted - sum(rows) / len(rows))


def backed_off(words: tuple[str, ...], scores: list[float], slack: float, limit: float) -> str:
    """The best word, or the shortest run of its words that is known and nearly as good."""
    best = max(range(len(words)), key=lambda i: scores[i])
    pieces, known = words[best].split(), []
    for length in range(1, len(pieces)):
        for start in range(len(pieces) - length + 1):
            run = " ".join(pieces[start : start + length])
            if run not in words and run.endswith("s"):
                run = run[:-1]
            if run in words and scores[best] - scores[words.index(run)] <= slack:
                below = scores[words.index(run)] < limit <= scores[best]
                known += [] if below else [(length, -scores[words.index(run)], run)]
    return min(known)[2] if known and slack else words[best]
