"""Sparse autoencoders written slowly in numpy float64, straight from the formulas."""

import itertools
import math

import numpy as np

from tests.oracles.sae_variants import largest

Array = np.ndarray


def reconstruction(target: Array, rebuilt: Array, reduction: str) -> float:
    total = 0.0
    for row, other in zip(target, rebuilt, strict=True):
        squared = sum((float(a) - float(b)) ** 2 for a, b in zip(row, other, strict=True))
        total += squared / len(row) if reduction == "mean" else squared
    return total / len(target)


def sparsity(codes: Array) -> float:
    return sum(abs(float(code)) for row in codes for code in row) / len(codes)


def auxiliary(residual: Array, pre: Array, dictionary: Array, dead: list[int], k: int) -> float:
    codes = largest(pre, k, dead)
    error = energy = 0.0
    for n, row in enumerate(residual):
        rebuilt = sum((codes[n, c] * dictionary[c] for c in dead), np.zeros(len(row)))
        error += sum((float(a) - float(b)) ** 2 for a, b in zip(row, rebuilt, strict=True))
        energy += sum(float(a) ** 2 for a in row)
    return error / energy


def unexplained_variance(x: Array, rebuilt: Array) -> float:
    mean = [sum(float(row[j]) for row in x) / len(x) for j in range(x.shape[1])]
    error = variance = 0.0
    for row, other in zip(x, rebuilt, strict=True):
        for j, value in enumerate(row):
            error += (float(value) - float(other[j])) ** 2
            variance += (float(value) - mean[j]) ** 2
    return error / variance


def draw_weights(losses: Array) -> Array:
    total = sum(float(loss) ** 2 for loss in losses)
    return np.array([float(loss) ** 2 / total for loss in losses])


def revive(
    encoder: Array, encoder_bias: Array, dictionary: Array, dead: list[int], inputs: Array
) -> tuple[Array, Array, Array]:
    encoder, encoder_bias, dictionary = encoder.copy(), encoder_bias.copy(), dictionary.copy()
    alive = [c for c in range(len(encoder)) if c not in dead]
    lengths = [math.sqrt(sum(float(w) ** 2 for w in encoder[c])) for c in alive]
    wanted = 0.2 * sum(lengths) / len(lengths)
    for c, x in zip(dead, inputs, strict=False):
        unit = x / math.sqrt(sum(float(value) ** 2 for value in x))
        dictionary[c], encoder[c], encoder_bias[c] = unit, unit * wanted, 0.0
    return encoder, encoder_bias, dictionary


def best_assignment(cosines: Array) -> float:
    """Largest summed cosine of a one-to-one assignment, by trying every permutation."""
    rows, columns = cosines.shape
    return max(
        sum(float(cosines[row, column]) for row, column in enumerate(order))
        for order in itertools.permutations(range(columns), rows)
    )
