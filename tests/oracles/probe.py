"""Slow, plain versions of the probe room's formulas, in float64 and with loops."""

import math
from fractions import Fraction

import numpy as np


def elastic_net_objective(x, y, weights, bias, penalty, l1_ratio):
    """Mean cross entropy plus elastic net; `x` already scaled, `weights` (c, k)."""
    total = 0.0
    for row, label in zip(x, y, strict=True):
        logits = [
            bias[k] + sum(row[c] * weights[c, k] for c in range(len(row))) for k in range(len(bias))
        ]
        peak = max(logits)
        total += peak + math.log(sum(math.exp(value - peak) for value in logits)) - logits[label]
    l1 = sum(abs(value) for value in weights.ravel())
    l2 = sum(value * value for value in weights.ravel())
    return total / len(y) + penalty * (l1_ratio * l1 + 0.5 * (1 - l1_ratio) * l2)


def numeric_gradient(function, point, step=1e-6):
    """Central differences of a scalar function of an array."""
    slopes = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        up, down = point.copy(), point.copy()
        up[index] += step
        down[index] -= step
        slopes[index] = (function(up) - function(down)) / (2 * step)
    return slopes


def class_hessian(x, weights, bias, k):
    """Second derivatives of the mean cross entropy by the weights of class k, bias last."""
    n, c = x.shape
    table = np.zeros((c + 1, c + 1))
    for row in x:
        logits = row @ weights + bias
        powers = [math.exp(value - logits.max()) for value in logits]
        p = powers[k] / sum(powers)
        one = [*row, 1.0]
        for a in range(c + 1):
            for b in range(c + 1):
                table[a, b] += p * (1 - p) * one[a] * one[b] / n
    return table


def quadratic_net_by_search(table, slope, weights, l1, l2):
    """argmin over w of slope.d + d'table d/2 + l1 sum|w| + l2/2 sum w**2 with d = w - weights.

    Coordinate by coordinate, each by ternary search, for a long time.
    """

    def cost(w):
        d = w - weights
        return slope @ d + d @ table @ d / 2 + l1 * abs(w).sum() + l2 / 2 * (w * w).sum()

    found = weights.astype(np.float64).copy()
    for _ in range(60):
        for j in range(len(found)):
            low, high = -20.0, 20.0
            for _ in range(80):
                one, two = found.copy(), found.copy()
                one[j], two[j] = low + (high - low) / 3, high - (high - low) / 3
                low, high = (low, two[j]) if cost(one) < cost(two) else (one[j], high)
            found[j] = (low + high) / 2
    return found


def largest_per_class(weights, nec):
    """Mark the nec largest absolute non-zero weights of each column of (c, k)."""
    keep = np.zeros(weights.shape, dtype=bool)
    for k in range(weights.shape[1]):
        ranked = sorted(range(weights.shape[0]), key=lambda c: (-abs(weights[c, k]), c))
        for c in ranked[:nec]:
            keep[c, k] = weights[c, k] != 0
    return keep


def calibration_error(probabilities, labels, bins):
    """Expected calibration error, bin by bin."""
    rows = [
        (float(max(p)), int(np.argmax(p)) == y) for p, y in zip(probabilities, labels, strict=True)
    ]
    error = 0.0
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        inside = [row for row in rows if low < row[0] <= high]
        if inside:
            confidence = sum(row[0] for row in inside) / len(inside)
            accuracy = sum(row[1] for row in inside) / len(inside)
            error += len(inside) / len(rows) * abs(confidence - accuracy)
    return error


def smoothed_cross_entropy(logits, labels, temperature):
    """Mean cross entropy of logits / temperature against Platt's targets, term by term."""
    n, k = len(logits), len(logits[0])
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        scaled = [value / temperature for value in row]
        peak = max(scaled)
        norm = peak + math.log(sum(math.exp(value - peak) for value in scaled))
        for j in range(k):
            target = (n + 1) / (n + 2) if j == label else 1 / (n + 2) / (k - 1)
            total -= target * (scaled[j] - norm)
    return total / n


def covariance(x):
    """Covariance of the columns of x, entry by entry."""
    n, c = x.shape
    mean = [sum(x[:, j]) / n for j in range(c)]
    table = np.zeros((c, c))
    for a in range(c):
        for b in range(c):
            table[a, b] = sum((x[i, a] - mean[a]) * (x[i, b] - mean[b]) for i in range(n)) / n
    return table


def concepts_for_share(contributions, share):
    """Fewest contributions that hold a share of the absolute mass, adding one at a time."""
    masses = sorted((abs(float(value)) for value in contributions), reverse=True)
    total, held, count = sum(masses), 0.0, 0
    while held < share * total * (1 - 1e-12):
        held += masses[count]
        count += 1
    return count


def exact_logit(codes, weights, bias):
    """The logit as a fraction: no rounding at all."""
    parts = zip(codes.tolist(), weights.tolist(), strict=True)
    return Fraction(bias) + sum(Fraction(code) * Fraction(weight) for code, weight in parts)


def adam_steps(x, y, weights, batches, learning_rate, sparsity):
    """The paper's probe by hand: cross entropy + sparsity * mean|w|, Adam 0.9 / 0.999 / 1e-8."""
    w = weights.astype(np.float64).copy()
    first, second = np.zeros_like(w), np.zeros_like(w)
    for step, batch in enumerate(batches, start=1):
        slopes = sparsity * np.sign(w) / w.size
        for i in batch:
            logits = w @ x[i]
            p = np.exp(logits - logits.max())
            p /= p.sum()
            p[y[i]] -= 1.0
            slopes += np.outer(p, x[i]) / len(batch)
        first = 0.9 * first + 0.1 * slopes
        second = 0.999 * second + 0.001 * slopes**2
        size = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        w -= learning_rate * first / (1 - 0.9**step) / size
    return w


def exact_groups(codes, weights, groups):
    """Group → (sum of products as a fraction, its members by absolute product), no rounding."""
    members = {}
    for concept, (code, weight) in enumerate(zip(codes.tolist(), weights.tolist(), strict=True)):
        product = Fraction(code) * Fraction(weight)
        members.setdefault(int(groups[concept]), []).append((product, concept))
    found = {}
    for group, some in members.items():
        some = sorted((one for one in some if one[0]), key=lambda one: (-abs(one[0]), one[1]))
        found[group] = (sum(product for product, _ in some), [concept for _, concept in some])
    return found


def short_decision(codes, weights, bias, top):
    """Class from each class's `top` largest contributions, and the share left out, one by one."""
    logits, short, left = [], [], []
    for k in range(len(bias)):
        parts = [float(code) * float(weights[k, c]) for c, code in enumerate(codes)]
        listed = sorted(parts, key=lambda part: -abs(part))[:top]
        mass = sum(abs(part) for part in parts)
        logits.append(bias[k] + sum(parts))
        short.append(bias[k] + sum(listed))
        left.append(1 - sum(abs(part) for part in listed) / mass if mass > 0 else 0.0)
    full = logits.index(max(logits))
    return short.index(max(short)), full, left[full]


def logits_without(codes, weights, bias, removed, instead):
    """Logits where removed concepts are at other values in every row, term by term."""
    table = np.zeros((len(codes), len(bias)))
    for i, row in enumerate(codes):
        for k in range(len(bias)):
            table[i, k] = float(bias[k])
            for c, code in enumerate(row):
                table[i, k] += weights[k, c] * (instead[c] if c in removed else code)
    return table
