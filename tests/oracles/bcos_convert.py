"""Slow float64 maps of converted layers: one entry after the other, and no autograd."""

import math

import numpy as np


def six_channels(weight: np.ndarray) -> np.ndarray:
    """(o, 3, ...) to (o, 6, ...): the same reading of [n, -n] as of n."""
    wide = np.zeros((weight.shape[0], 6, *weight.shape[2:]))
    for channel in range(3):
        wide[:, channel] = weight[:, channel] / 2
        wide[:, channel + 3] = -weight[:, channel] / 2
    return wide


def bias_without_mean(
    mean: np.ndarray, var: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float
) -> np.ndarray:
    """What x·weight/σ needs so that it is weight·(x - mean)/σ + bias."""
    return np.array(
        [b - m * w / math.sqrt(v + eps) for m, v, w, b in zip(mean, var, weight, bias, strict=True)]
    )


def bcos_rows(weight: np.ndarray, x: np.ndarray, b: float) -> np.ndarray:
    """W(x) (o, i) of a bias-free layer with raw weights on one patch (i,)."""
    length = math.sqrt(sum(value * value for value in x) + 1e-6)
    rows = np.zeros_like(weight)
    for o, row in enumerate(weight):
        out = sum(w * value for w, value in zip(row, x, strict=True))
        rows[o] = row * (abs(out) / length + (0 if b == 2 else 1e-6)) ** (b - 1)
    return rows


def gelu_rows(x: np.ndarray) -> np.ndarray:
    """W(x) of GELU: the normal distribution function of each entry, on the diagonal."""
    return np.diag([(1 + math.erf(value / math.sqrt(2))) / 2 for value in x])


def attention_weights(query: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Softmax over (t, w) keys for one query (w,)."""
    scores = [sum(q * k for q, k in zip(query, key, strict=True)) for key in keys]
    powers = [math.exp((score - max(scores)) / math.sqrt(len(query))) for score in scores]
    return np.array([power / sum(powers) for power in powers])


def attention_rows(
    x: np.ndarray, weights: tuple[np.ndarray, ...], biases: tuple[np.ndarray, ...], heads: int
) -> np.ndarray:
    """Map (t, o, s, d) of multi-head attention on tokens x (s, d), with the weights held.

    Args:
        x: tokens.
        weights: of query, key, value and output, each (o, d).
        biases: of query and key.
        heads: of the attention.
    """
    query = x @ weights[0].T + biases[0]
    key = x @ weights[1].T + biases[1]
    width = query.shape[1] // heads
    rows = np.zeros((len(x), len(weights[3]), *x.shape))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        through = weights[3][:, part] @ weights[2][part]
        for target in range(len(x)):
            shares = attention_weights(query[target, part], key[:, part])
            for source, share in enumerate(shares):
                rows[target, :, source] += share * through
    return rows
