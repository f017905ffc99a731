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


def parts(words: tuple[str, ...], entry: int) -> set[int]:
    """The entry, and entries that are runs of its words or the singular of one."""
    pieces, found = words[entry].split(), {entry}
    for length in range(1, len(pieces)):
        for start in range(len(pieces) - length + 1):
            run = " ".join(pieces[start : start + length])
            if run not in words and run.endswith("s"):
                run = run[:-1]
            if run in words:
                found.add(words.index(run))
    return found


def votes(words: tuple[str, ...], scores: list[float], voters: int) -> dict[int, float]:
    """Share of exp(score / 0.05) over the best entries that speak of each entry."""
    best = sorted(range(len(words)), key=lambda i: (-scores[i], i))[:voters]
    weights = [math.exp((scores[i] - scores[best[0]]) / 0.05) for i in best]
    shares: dict[int, float] = {}
    for entry, weight in zip(best, weights, strict=True):
        for part in parts(words, entry):
            shares[part] = shares.get(part, 0.0) + weight / sum(weights)
    return shares


def backed_off(
    words: tuple[str, ...], scores: list[float], slack: float, voters: int
) -> tuple[int, float]:
    """The most voted of the 8 most voted entries that lacks at most `slack`, and its share."""
    shares = votes(words, scores, voters)
    best = max(range(len(words)), key=lambda i: (scores[i], -i))
    tried = sorted(shares, key=lambda i: (-round(shares[i], 6), i))[:8]
    good = [i for i in tried if scores[i] >= scores[best] - slack]
    if not slack or not good:
        return best, shares[best]
    chosen = min(good, key=lambda i: (-round(shares[i], 6), len(words[i].split()), -scores[i], i))
    return chosen, shares[chosen]


def detail(
    words: tuple[str, ...], name: str, mates: np.ndarray, which: int, vectors: np.ndarray
) -> str | None:
    """The entry that fits one of the mates and fits the others least, or None."""
    own, mean = cosines(mates[which], vectors), sum(unit(m) for m in mates) / len(mates)
    common = [sum(float(a) * float(b) for a, b in zip(mean, unit(w), strict=True)) for w in vectors]
    good = [
        (own[i] - common[i], -i)
        for i in range(len(words))
        if own[i] >= 0.8 * max(own)
        and own[i] - common[i] >= 0.03
        and not set(words[i].split()) <= set(name.split())
    ]
    return words[-max(good)[1]] if good else None


def skewness(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    second = sum((x - mean) ** 2 for x in counts) / len(counts)
    return sum((x - mean) ** 3 for x in counts) / len(counts) / second**1.5


def binomial_tail(hits: int, total: int, share: float) -> float:
    """Chance of at least `hits` of `total`."""
    return sum(
        math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(hits, total + 1)
    )


def average_precision(scores: list[float], present: list[bool]) -> float:
    """Mean over the present ones of the precision at their rank; ties count as ranked together."""
    total = 0.0
    for score, is_present in zip(scores, present, strict=True):
        if is_present:
            above = [p for s, p in zip(scores, present, strict=True) if s >= score]
            total += sum(above) / len(above)
    return total / sum(present)


def in_lists(
    query: np.ndarray,
    words: np.ndarray,
    leaders: list[int],
    owners: list[int],
    probes: int,
) -> list[tuple[int, float]]:
    """(word, cosine) of the words whose leader is among the `probes` nearest, best first."""
    order = ranking(query, words[leaders])[:probes]
    looked = {entry for entry, _ in order}
    return [(row, score) for row, score in ranking(query, words) if owners[row] in looked]
