"""Losses of distillation, and maps that are cropped with their photos, number by number."""

import math

import numpy as np


def logit_loss(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T² KL(softmax(z_T / T) || softmax(z_S / T)), sum over classes, mean over rows."""
    total = 0.0
    for z_s, z_t in zip(student, teacher, strict=True):
        p, q = _softmax(z_t / temperature), _softmax(z_s / temperature)
        for a, b in zip(p, q, strict=True):
            total += a * (math.log(a) - math.log(b))
    return temperature**2 * total / len(student)


def _softmax(logits: np.ndarray) -> list[float]:
    parts = [math.exp(z) for z in logits]
    return [part / sum(parts) for part in parts]


def multi_label_loss(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T² times binary KL on p and on 1 - p, clamped at 1e-6; sum over classes, mean over rows."""
    total = 0.0
    for row_s, row_t in zip(student, teacher, strict=True):
        for z_s, z_t in zip(row_s, row_t, strict=True):
            p, q = (
                min(max(1 / (1 + math.exp(-z / temperature)), 1e-6), 1 - 1e-6) for z in (z_t, z_s)
            )
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return temperature**2 * total / len(student)


def explanation_loss(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean of 1 - cosine of flattened maps; zeros count as 1."""
    total = 0.0
    for first, second in zip(student, teacher, strict=True):
        product = a = b = 0.0
        for x, y in zip(first.ravel(), second.ravel(), strict=True):
            product, a, b = product + x * y, a + x * x, b + y * y
        total += 1.0 if a == 0 or b == 0 else 1 - product / math.sqrt(a * b)
    return total / len(student)


def embedding_loss(student: np.ndarray, teacher: np.ndarray) -> float:
    """Sum of squared differences over sum of the teacher's squares."""
    above = sum(float((s - t) ** 2) for s, t in zip(student.ravel(), teacher.ravel(), strict=True))
    return above / sum(float(t**2) for t in teacher.ravel())


def relational_loss(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean Huber loss (delta 1) of all pairwise distances, each over its mean."""
    found = []
    for rows in (student, teacher):
        units = [row / math.sqrt(float((row**2).sum())) for row in rows]
        pairs = [
            math.sqrt(float(((units[i] - units[j]) ** 2).sum()))
            for i in range(len(units))
            for j in range(i + 1, len(units))
        ]
        found.append([pair / (sum(pairs) / len(pairs)) for pair in pairs])
    differences = [abs(a - b) for a, b in zip(*found, strict=True)]
    return sum(0.5 * d * d if d <= 1 else d - 0.5 for d in differences) / len(differences)


def top_overlap(given: np.ndarray, right: np.ndarray, top: int) -> list[float]:
    """Share of the `top` largest of `right` that are among those of `given`, row by row."""
    found = []
    for first, second in zip(given, right, strict=True):
        best = [set(sorted(range(len(r)), key=lambda c: -abs(r[c]))[:top]) for r in (first, second)]
        found.append(len(best[0] & best[1]) / top)
    return found


def maps_in_crops(
    maps: np.ndarray, boxes: np.ndarray, photo: tuple[int, int], size: int
) -> np.ndarray:
    """Maps (n, i, y, x) brought to the photo's size, then cropped; float64."""
    whole = np.stack([_enlarged(of_one, photo) for of_one in maps])
    found = np.zeros((len(maps), maps.shape[1], size, size))
    for n, (height, width, centre_y, centre_x, turned) in enumerate(boxes):
        for i in range(size):
            for j in range(size):
                y = (centre_y + 1) / 2 + height * ((i + 0.5) / size - 0.5)
                x = (centre_x + 1) / 2 + width * turned * ((j + 0.5) / size - 0.5)
                found[n, :, i, j] = _at(whole[n], y * photo[0] - 0.5, x * photo[1] - 0.5)
    return found


def _enlarged(maps: np.ndarray, photo: tuple[int, int]) -> np.ndarray:
    """Bilinear, with the middles of pixels as the places of values."""
    (_, rows, columns), (high, wide) = maps.shape, photo
    found = np.zeros((len(maps), high, wide))
    for i in range(high):
        for j in range(wide):
            place = (i + 0.5) * rows / high - 0.5, (j + 0.5) * columns / wide - 0.5
            found[:, i, j] = _at(maps, *place)
    return found


def _at(maps: np.ndarray, y: float, x: float) -> np.ndarray:
    """Values between the middles of pixels; beyond the border those of the border."""
    total = np.zeros(len(maps))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            place = min(max(row, 0), maps.shape[1] - 1), min(max(column, 0), maps.shape[2] - 1)
            total += weight * maps[:, place[0], place[1]]
    return total
