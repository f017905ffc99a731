"""B-cos layers as explicit matrices, place by place: y = M(x) x + a, without derivatives."""

import math

import numpy as np

Array = np.ndarray
PADDING = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pair(value: object) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type,return-value]


def factor(product: float, length: float, b: float) -> float:
    """|w·x|^(B-1) / |x|^(B-1); B other than 1 and 2 with 1e-6 on the quotient."""
    if b == 1:
        return 1.0
    if b == 2:
        return abs(product) / length
    return (abs(product / length) + 1e-6) ** (b - 1)


def rows_of(x: Array, units: list[tuple[Array, float]], length: float, b: float) -> tuple:
    """The winning unit's row of M(x) and its offset."""
    products = [float(row @ x) + bias for row, bias in units]
    best = int(np.argmax(products))
    scale = factor(products[best], length, b)
    return scale * units[best][0], scale * units[best][1]


def linear(
    x: Array, weight: Array, bias: Array | None, *, b: float, max_out: int, unit_norm: bool
) -> tuple[Array, Array]:
    """M (o, i) and a (o) for one row x."""
    weight = weight / np.linalg.norm(weight, axis=1, keepdims=True) if unit_norm else weight
    biases = np.zeros(len(weight)) if bias is None else bias
    length = math.sqrt(sum(v * v for v in x)) + 1e-12
    found = []
    for first in range(0, len(weight), max_out):
        units = [(weight[u], float(biases[u])) for u in range(first, first + max_out)]
        found.append(rows_of(x, units, length, b))
    return np.array([row for row, _ in found]), np.array([a for _, a in found])


def sources(shape: tuple[int, int, int], padding: object, mode: str) -> Array:
    """Which input pixel lies at each place of the padded maps; -1 where none does."""
    places = np.arange(math.prod(shape)).reshape(shape)
    top, left = pair(padding)
    widths = ((0, 0), (top, top), (left, left))
    options = {"constant_values": -1} if mode == "zeros" else {}
    return np.pad(places, widths, mode=PADDING[mode], **options)  # type: ignore[call-overload]


def conv(
    x: Array, weight: Array, bias: Array | None, *, stride: object = 1, padding: object = 0,
    dilation: object = 1, groups: int = 1, padding_mode: str = "zeros", b: float = 2.0,
    max_out: int = 1, unit_norm: bool = True,
) -> tuple[Array, Array, tuple[int, int, int]]:  # fmt: skip
    """M (o*y*x, i*h*w), a (o*y*x) and the shape (o, y, x) for one image."""
    if unit_norm:
        norms = np.array([np.linalg.norm(row) for row in weight])
        weight = weight / norms[:, None, None, None]
    biases = np.zeros(len(weight)) if bias is None else bias
    places = sources(x.shape, padding, padding_mode)
    (sy, sx), (dy, dx), (kh, kw) = pair(stride), pair(dilation), weight.shape[2:]
    outs, per_group = len(weight) // max_out, x.shape[0] // groups
    high = (places.shape[1] - dy * (kh - 1) - 1) // sy + 1
    wide = (places.shape[2] - dx * (kw - 1) - 1) // sx + 1
    flat, matrix, offset = x.ravel(), [], []
    for o in range(outs):
        group = o // (outs // groups)
        for y in range(high):
            for z in range(wide):
                patch = places[
                    group * per_group : (group + 1) * per_group,
                    y * sy : y * sy + dy * (kh - 1) + 1 : dy,
                    z * sx : z * sx + dx * (kw - 1) + 1 : dx,
                ].ravel()
                seen = np.where(patch >= 0, flat[patch], 0.0)
                length = math.sqrt(sum(v * v for v in seen) + 1e-6)
                units = [
                    (weight[u].ravel(), float(biases[u]))
                    for u in range(o * max_out, (o + 1) * max_out)
                ]
                row, a = rows_of(seen, units, length, b)
                full = np.zeros(flat.size)
                for place, value in zip(patch, row, strict=True):
                    if place >= 0:
                        full[place] += value
                matrix.append(full)
                offset.append(a)
    return np.array(matrix), np.array(offset), (outs, high, wide)


def normalising(x: Array, members: list[list[int]], scale: Array, *, centred: bool, eps: float):
    """The matrix that divides each set of entries of one image by its deviation."""
    matrix = np.zeros((x.size, x.size))
    flat = x.ravel()
    for group in members:
        values = flat[group]
        deviation = math.sqrt(float(np.mean((values - values.mean()) ** 2)) + eps)
        for i in group:
            matrix[i, i] += scale[i] / deviation
            if centred:
                for j in group:
                    matrix[i, j] -= scale[i] / deviation / len(group)
    return matrix


def rgba(inputs: Array, weights: Array, smooth: int, percentile: float) -> Array:
    """One picture, pixel by pixel."""
    _, high, wide = weights.shape
    opacity, colours = np.zeros((high, wide)), np.zeros((high, wide, 3))
    for y in range(high):
        for x in range(wide):
            w = weights[:, y, x]
            positive = np.maximum(w / (np.abs(w).max() + 1e-12), 0)
            colours[y, x] = positive[:3] / (positive[:3] + positive[3:] + 1e-12)
            against = float(w @ inputs[:, y, x]) < 0
            opacity[y, x] = 1e-12 if against else math.sqrt(float(w @ w))
    reach, smoothed = smooth // 2, np.zeros((high, wide))
    for y in range(high):
        for x in range(wide):
            window = opacity[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            smoothed[y, x] = window.sum() / smooth**2
    top = np.percentile(smoothed, percentile)
    return np.concatenate([colours, np.clip(smoothed / top, 0, 1)[..., None]], axis=-1)
