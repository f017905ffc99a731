"""Training losses of every variant from their papers, slowly, with derivatives that need no rules.

A loss is arithmetic that holds for complex numbers too: moved by i h along one coordinate, its
imaginary part is h times the derivative, exact to rounding (complex step). So no chain rule is
written down here, except for JumpReLU's, whose straight-through estimates are its definition.

Letters: y rows, W and a the encoder, D the dictionary, b the pre-bias; r and o Gated's log scale
and offset, t JumpReLU's log threshold; M and R mixture and relaxation of archetypal rows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Parameters = dict[str, Array]
_H = 1e-30


def derivative(loss: Callable[[Parameters], complex], p: Parameters) -> Parameters:
    found = {}
    for name, value in p.items():
        found[name] = np.zeros(value.shape)
        for place in np.ndindex(value.shape):
            moved = {key: other.astype(complex) for key, other in p.items()}
            moved[name][place] += 1j * _H
            found[name][place] = np.imag(loss(moved)) / _H
    return found


@dataclass(frozen=True, kw_only=True)
class Recipe:
    activation: str
    k: int = 3
    reduction: str = "mean"
    l1: float = 0.0
    l0: float = 0.0
    bandwidth: float = 0.03
    ends: tuple[int, ...] = ()
    by: str = "concepts"
    weights: tuple[float, ...] = (1.0,)
    aux_weight: float = 0.0
    aux_k: int = 1
    points: Array | None = None
    """Rows that archetypal directions mix."""
    limit: float = 0.0
    """Length that a relaxation may have."""


def positive(values: Array) -> Array:
    return np.where(values.real > 0, values, 0)


def encoded(p: Parameters, y: Array) -> Array:
    return (y - p["b"]) @ p["W"].T + p["a"]


def directions(p: Parameters, recipe: Recipe) -> Array:
    """2502.12892: unit rows of M points + R; or the dictionary itself."""
    if recipe.points is None:
        return p["D"]
    rows = []
    for mixture, relaxed in zip(p["M"], p["R"], strict=True):
        row = relaxed + sum(m * point for m, point in zip(mixture, recipe.points, strict=True))
        rows.append(row / np.sqrt(sum(value * value for value in row)))
    return np.array(rows)


def largest(values: Array, k: int, allowed: list[int] | None = None) -> Array:
    """Positive values among the k largest allowed ones of each row."""
    kept = np.zeros_like(values)
    columns = list(range(values.shape[1])) if allowed is None else allowed
    for n, row in enumerate(values):
        for c in sorted(columns, key=lambda c: -row[c].real)[:k]:
            if row[c].real > 0:
                kept[n, c] = row[c]
    return kept


def largest_of_batch(values: Array, count: int) -> Array:
    kept = np.zeros_like(values)
    for place in sorted(np.ndindex(values.shape), key=lambda p: -values[p].real)[:count]:
        if values[place].real > 0:
            kept[place] = values[place]
    return kept


def gated(p: Parameters, y: Array) -> Array:
    """2404.16014, in the paper's letters: its bias of the magnitude is free."""
    scale, b_gate = np.exp(p["r"]), p["a"]
    b_mag = p["o"] + scale * b_gate
    gate = (y - p["b"]) @ p["W"].T + b_gate
    magnitude = (y - p["b"]) @ (scale[:, None] * p["W"]).T + b_mag
    return np.where(gate.real > 0, positive(magnitude), 0)


def codes_of(p: Parameters, y: Array, recipe: Recipe) -> Array:
    pre = encoded(p, y)
    if recipe.activation == "topk":
        return largest(pre, recipe.k)
    if recipe.activation == "batchtopk":
        return largest_of_batch(pre, recipe.k * len(y))
    if recipe.activation == "gated":
        return gated(p, y)
    if recipe.activation == "jumprelu":
        return np.where(pre.real > np.exp(p["t"]).real, pre, 0)
    return positive(pre)


def error(y: Array, rebuilt: Array, reduction: str) -> complex:
    difference = y - rebuilt
    return (difference * difference).sum() / len(y) / (y.shape[1] if reduction == "mean" else 1)


def reconstructions(codes: Array, p: Parameters, recipe: Recipe) -> list[Array]:
    """One per level: of the first concepts (2503.17547) or the largest codes (2502.20578)."""
    rows, found = directions(p, recipe), []
    for end in (*recipe.ends[:-1], codes.shape[1]):  # whatever its rule, the last has all codes
        if recipe.by == "concepts":
            level = codes[:, :end] @ rows[:end]
        else:
            level = largest(codes, end) @ rows
        found.append(level + p["b"])
    return found


def reconstruction_loss(codes: Array, p: Parameters, y: Array, recipe: Recipe) -> complex:
    levels = reconstructions(codes, p, recipe)
    return sum(
        weight * error(y, level, recipe.reduction)
        for weight, level in zip(recipe.weights, levels, strict=True)
    )


def loss(p: Parameters, y: Array, recipe: Recipe, dead: list[int], now: Parameters) -> complex:
    """`now` are the same parameters, for what the loss takes as constant."""
    pre, codes = encoded(p, y), codes_of(p, y, recipe)
    total = reconstruction_loss(codes, p, y, recipe)
    if recipe.activation == "gated":  # 2404.16014: the auxiliary term
        frozen = positive(pre) @ directions(now, recipe) + now["b"]
        total += error(y, frozen, recipe.reduction) + recipe.l1 * positive(pre).sum() / len(y)
    elif recipe.activation == "jumprelu":
        total += recipe.l0 * (active_per_row(codes) / recipe.k - 1) ** 2
    else:
        total += recipe.l1 * codes.sum() / len(y)
    if recipe.aux_weight and dead:
        rest = y - reconstructions(codes_of(now, y, recipe), now, recipe)[-1]
        helped = largest(pre, recipe.aux_k, dead) @ directions(p, recipe)
        total += recipe.aux_weight * ((rest - helped) ** 2).sum() / (rest**2).sum()
    return total


def active_per_row(codes: Array) -> float:
    return sum(1 for code in codes.flatten() if code.real > 0) / len(codes)


def gradients(p: Parameters, y: Array, recipe: Recipe, dead: list[int]) -> Parameters:
    found = derivative(lambda moved: loss(moved, y, recipe, dead, p), p)
    if recipe.activation == "jumprelu":
        found["t"] = straight_through(p, y, recipe)
    return found


def straight_through(p: Parameters, y: Array, recipe: Recipe) -> Array:
    """2407.14435, equations 11 and 12, one entry after the other."""
    pre, codes, width = encoded(p, y), codes_of(p, y, recipe), recipe.bandwidth
    into_codes = derivative(
        lambda moved: reconstruction_loss(moved["codes"], p, y, recipe), {"codes": codes}
    )["codes"]
    off = active_per_row(codes) / recipe.k - 1
    into_active = recipe.l0 * 2 * off / recipe.k / len(y)
    found = np.zeros(len(p["t"]))
    for n, c in np.ndindex(pre.shape):
        threshold = math.exp(p["t"][c])
        scaled = (pre[n, c] - threshold) / width
        kernel = 1.0 if -0.5 < scaled < 0.5 else 0.0
        into_threshold = into_codes[n, c] * -threshold / width * kernel  # equation 11
        into_threshold += into_active * -1 / width * kernel  # equation 12
        found[c] += into_threshold * threshold  # of its logarithm
    return found


class Training:
    """One step after the other: gradients, Adam (1412.6980), constraints, silent concepts."""

    def __init__(self, p: Parameters, recipe: Recipe, *, lr: float) -> None:
        self.p = {name: value.astype(np.float64).copy() for name, value in p.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.p.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.p.items()}
        self.recipe, self.lr, self.t = recipe, lr, 0
        self.silent_for = [0] * len(p["W"])
        """Rows since each concept last fired."""
        self.gradients: Parameters = {}

    def __call__(self, y: Array, dead: list[int]) -> float:
        value = loss(self.p, y, self.recipe, dead, self.p)
        codes = codes_of(self.p, y, self.recipe)
        self.gradients = gradients(self.p, y, self.recipe, dead)
        if "D" in self.p:
            for g, row in zip(self.gradients["D"], self.p["D"], strict=True):
                g -= (g @ row) * row
        self._adam()
        self._constrain()
        for c in range(len(self.silent_for)):
            fired = any(row[c] > 0 for row in codes)
            self.silent_for[c] = 0 if fired else self.silent_for[c] + len(y)
        return float(np.real(value))

    def _adam(self) -> None:
        self.t += 1
        for name, g in self.gradients.items():
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.999 * self.v[name] + 0.001 * g * g
            m = self.m[name] / (1 - 0.9**self.t)
            v = self.v[name] / (1 - 0.999**self.t)
            self.p[name] -= self.lr * m / (np.sqrt(v) + 1e-8)

    def _constrain(self) -> None:
        for row in self.p.get("D", []):
            row /= math.sqrt(sum(value**2 for value in row))
        for mixture in self.p.get("M", []):
            mixture[:] = [max(0.0, weight) for weight in mixture]
            mixture /= sum(mixture)
        for relaxed in self.p.get("R", []):
            length = math.sqrt(sum(value**2 for value in relaxed))
            if length > self.recipe.limit:
                relaxed *= self.recipe.limit / length
