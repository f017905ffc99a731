"""Evaluation-time attribution and post-processing, by loops over places, channels and masks."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from tests.oracles.attribution import slope

Array = np.ndarray
Head = Callable[[Array], float]


def gaussian(maps: Array, side: int) -> Array:
    """Of one map, with zeros beyond the border."""
    reach, sigma, found = side // 2, side / 4, np.zeros(maps.shape)
    weights = {
        (a, b): math.exp(-(a * a + b * b) / (2 * sigma**2))
        for a in range(-reach, reach + 1)
        for b in range(-reach, reach + 1)
    }
    for y, x in np.ndindex(maps.shape):
        for (a, b), weight in weights.items():
            if 0 <= y + a < maps.shape[0] and 0 <= x + b < maps.shape[1]:
                found[y, x] += weight / sum(weights.values()) * maps[y + a, x + b]
    return found


def enlarged(maps: Array, size: Sequence[int]) -> Array:
    """Bilinear, with places at the middles of their squares and the border repeated."""
    found = np.zeros(size)
    for y, x in np.ndindex(*size):
        corners, places = [], ((y, 0), (x, 1))
        for place, axis in places:
            at = max((place + 0.5) * maps.shape[axis] / size[axis] - 0.5, 0.0)
            low = min(int(at), maps.shape[axis] - 1)
            corners.append((low, min(low + 1, maps.shape[axis] - 1), at - low))
        (top, bottom, down), (left, right, across) = corners
        upper = maps[top, left] * (1 - across) + maps[top, right] * across
        lower = maps[bottom, left] * (1 - across) + maps[bottom, right] * across
        found[y, x] = upper * (1 - down) + lower * down
    return found


def chain(maps: Array, size: Sequence[int], smooth: int, how: str, *, absolute: bool) -> Array:
    """Of one map."""
    maps = enlarged(gaussian(maps, smooth), size)
    for place in np.ndindex(maps.shape):
        maps[place] = abs(maps[place]) if absolute else max(maps[place], 0)
    return maps / (maps.max() if how == "max" else maps.sum())


def grad_cam_plus_plus(head: Head, maps: Array) -> Array:
    gradients, found = slope(head, maps), np.zeros(maps.shape[1:])
    for g, a in zip(gradients, maps, strict=True):
        weight = 0.0
        for place in np.ndindex(a.shape):
            below = 2 * g[place] ** 2 + a.sum() * g[place] ** 3
            weight += g[place] ** 2 / below * max(g[place], 0)
        found += weight * a
    return np.maximum(found, 0)


def ablation_cam(head: Head, maps: Array) -> Array:
    whole, found = head(maps), np.zeros(maps.shape[1:])
    for channel in range(len(maps)):
        without = maps.copy()
        without[channel] = 0
        found += (whole - head(without)) / abs(whole) * maps[channel]
    return np.maximum(found, 0)


def score_cam(network: Head, image: Array, maps: Array) -> Array:
    scores = []
    for a in maps:
        mask = enlarged(a, image.shape[1:])
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        scores.append(network(image * mask))
    weights = np.exp(np.array(scores) - max(scores))
    weights /= weights.sum()
    return np.maximum(sum(w * a for w, a in zip(weights, maps, strict=True)), 0)


def occlusion(head: Head, x: Array, side: int, stride: int, baseline: float) -> Array:
    high, wide = x.shape[1:]
    total, times = np.zeros((high, wide)), np.zeros((high, wide))
    top = 0
    while True:
        left = 0
        while True:
            hidden = x.copy()
            hidden[:, top : top + side, left : left + side] = baseline
            total[top : top + side, left : left + side] += head(x) - head(hidden)
            times[top : top + side, left : left + side] += 1
            if left + side >= wide:
                break
            left += stride
        if top + side >= high:
            break
        top += stride
    return total / times


def rise(head: Head, x: Array, bits: Array, shifts: Array, keep: float) -> Array:
    high, wide = x.shape[1:]
    cells, found = bits.shape[-1], np.zeros((high, wide))
    size = [(cells + 1) * math.ceil(side / cells) for side in (high, wide)]
    for bit, (top, left) in zip(bits, shifts, strict=True):
        mask = enlarged(bit, size)[top : top + high, left : left + wide]
        found += head(x * mask) * mask
    return found / (keep * len(bits))


def smooth_grad(head: Head, x: Array, noises: Sequence[Array], share: float) -> Array:
    scale = share * (x.max() - x.min())
    total = sum(slope(head, x + scale * noise) for noise in noises)
    return np.abs(total / len(noises)).sum(axis=0)


Weights = Sequence[tuple[Array, Array]]
"""Matrix and bias of each linear layer; ReLU lies between them."""


def _forward(layers: Weights, x: Array) -> tuple[list[Array], list[Array]]:
    """What enters each layer and what it gives."""
    entered, given = [], []
    for matrix, bias in layers:
        entered.append(x)
        given.append(np.array([sum(w * v for w, v in zip(row, x, strict=True)) for row in matrix]))
        given[-1] = given[-1] + bias
        x = np.maximum(given[-1], 0)
    return entered, given


def guided_backprop(layers: Weights, x: Array, k: int) -> Array:
    _, given = _forward(layers, x)
    gradient = layers[-1][0][k]
    for (matrix, _), z in zip(layers[-2::-1], given[-2::-1], strict=True):
        for j in range(len(z)):
            if z[j] <= 0 or gradient[j] <= 0:
                gradient = np.where(np.arange(len(z)) == j, 0.0, gradient)
        gradient = gradient @ matrix
    return gradient


def lrp(layers: Weights, x: Array, k: int, epsilon: float) -> Array:
    entered, given = _forward(layers, x)
    relevance = np.zeros(len(given[-1]))
    relevance[k] = given[-1][k]
    for (matrix, _), a, z in zip(layers[::-1], entered[::-1], given[::-1], strict=True):
        before = np.zeros(len(a))
        for i in range(len(a)):
            for j in range(len(z)):
                below = z[j] + (epsilon if z[j] >= 0 else -epsilon)
                before[i] += a[i] * matrix[j, i] / below * relevance[j]
        relevance = before
    return relevance


def rollout(blocks: Sequence[Array]) -> Array:
    """Attention (heads, t, t) of each block to how much each token reaches each."""
    reach = np.eye(blocks[0].shape[-1])
    for heads in blocks:
        mean = np.zeros(reach.shape)
        for head in heads:
            mean += head / len(heads)
        for t in range(len(mean)):
            mean[t, t] += 1
        reach = (mean / mean.sum(axis=1, keepdims=True)) @ reach
    return reach
