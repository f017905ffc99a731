"""Multinomial logistic regression with elastic net: objective, gradient, KKT conditions.

With `z = codes / scale` the objective over weights `W` (c, k) and bias `b` is

    mean_i s_i * cross_entropy(z_i W + b, y_i) + penalty * (l1_ratio * sum|W|
        + (1 - l1_ratio) / 2 * sum W**2)

(Friedman, Hastie, Tibshirani 2010, J. Stat. Softw. 33(1)). The bias is not penalised, hence
replacing `z` by `z - mean(z)` only shifts `b` and leaves objective and solution alone. The
solvers use that shift, applied to products and never to the matrix, because the common
direction of non-negative codes would otherwise make them slow.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from dncbm.probe.matrix import Matrix, column_mean, column_rms, times

_TINY_VARIANCE = 1e-12
_FEW_CLASSES = 64


@final
@dataclass(frozen=True, kw_only=True, eq=False)  # no slots: cached_property needs a __dict__
class Design:
    """Codes and labels prepared for solvers; every product is with scaled, shifted codes."""

    matrix: Matrix
    transposed: Matrix
    labels: Int[np.ndarray, " n"]
    num_classes: int
    scale: Float[np.ndarray, " c"]
    shift: Float[np.ndarray, " c"]
    """Column means of the scaled codes."""
    example_weights: Float[np.ndarray, " n"]
    """Mean 1."""

    @classmethod
    def build(
        cls,
        matrix: Matrix,
        labels: Int[np.ndarray, " n"],
        num_classes: int,
        *,
        scale: Float[np.ndarray, " c"] | None = None,
        balanced: bool = False,
    ) -> "Design":
        """A design with the given column scale (default: root mean square of each column)."""
        columns = column_rms(matrix) if scale is None else scale
        return cls(
            matrix=matrix,
            transposed=_transpose(matrix),
            labels=labels,
            num_classes=num_classes,
            scale=columns,
            shift=column_mean(matrix) / columns,
            example_weights=_example_weights(labels, num_classes, balanced).astype(matrix.dtype),
        )

    @property
    def num_rows(self) -> int:
        """The number of training rows."""
        return int(self.matrix.shape[0])

    @property
    def num_columns(self) -> int:
        """The number of concepts."""
        return int(self.matrix.shape[1])

    def one_scale(self) -> "Design":
        """The same problem with one scale for all columns: frequent concepts weigh more."""
        rms = column_rms(self.matrix)
        overall = np.full_like(rms, np.sqrt((rms**2).mean()))
        return replace(self, scale=overall, shift=self.shift * self.scale / overall)

    def logits(
        self, weights: Float[np.ndarray, "c k"], bias: Float[np.ndarray, " k"]
    ) -> Float[np.ndarray, "n k"]:
        """Scaled, shifted codes times weights, plus bias."""
        return times(self.matrix, weights / self.scale[:, None]) + (bias - self.shift @ weights)

    def pullback(
        self, slopes: Float[np.ndarray, "n k"]
    ) -> tuple[Float[np.ndarray, "c k"], Float[np.ndarray, " k"]]:
        """Gradient of weights and bias from the gradient of the logits."""
        total = slopes.sum(axis=0)
        products = self.transposed @ slopes
        return products / self.scale[:, None] - np.outer(self.shift, total), total

    def loss(self, logits: Float[np.ndarray, "n k"]) -> float:
        """Weighted mean cross entropy."""
        peak = _row_max(logits)
        norm = peak + np.log(_row_sum(np.exp(logits - peak[:, None])))
        losses = norm - logits[np.arange(self.num_rows), self.labels]
        return float(self.example_weights @ losses / self.num_rows)

    def loss_and_slopes(
        self, logits: Float[np.ndarray, "n k"]
    ) -> tuple[float, Float[np.ndarray, "n k"]]:
        """The loss and its gradient with respect to the logits."""
        peak = _row_max(logits)
        slopes = np.exp(logits - peak[:, None])
        total = _row_sum(slopes)
        chosen = np.arange(self.num_rows), self.labels
        losses = peak + np.log(total) - logits[chosen]
        weights = self.example_weights / self.num_rows
        slopes *= (weights / total)[:, None]
        slopes[chosen] -= weights
        return float(self.example_weights @ losses / self.num_rows), slopes

    def null_bias(self) -> Float[np.ndarray, " k"]:
        """The bias that minimises the loss where all weights are zero: log class shares."""
        shares = np.bincount(self.labels, self.example_weights, minlength=self.num_classes)
        logs = np.log(shares / shares.sum())
        return (logs - logs.mean()).astype(self.scale.dtype)

    def gradient(
        self, weights: Float[np.ndarray, "c k"], bias: Float[np.ndarray, " k"]
    ) -> tuple[Float[np.ndarray, "c k"], Float[np.ndarray, " k"]]:
        """Gradient of the loss (without penalty)."""
        return self.pullback(self.loss_and_slopes(self.logits(weights, bias))[1])

    def max_penalty(self, l1_ratio: float) -> float:
        """The smallest penalty at which all weights are zero."""
        zeros = np.zeros((self.num_columns, self.num_classes), dtype=self.scale.dtype)
        return float(np.abs(self.gradient(zeros, self.null_bias())[0]).max()) / l1_ratio

    @cached_property
    def variance(self) -> Float[np.ndarray, " c"]:
        """Variance of each scaled column, never negative."""
        squares = self.matrix.multiply(self.matrix) if sp.issparse(self.matrix) else self.matrix**2
        means = np.asarray(squares.sum(axis=0)).ravel() / self.num_rows / self.scale**2
        return np.maximum(means - self.shift**2, 0.0)

    def total_variance(self) -> float:
        """Sum over columns of the variance of the scaled codes: the natural unit of L2.

        At least 1e-12, so that penalties in this unit stay positive for constant codes.
        """
        return max(float(self.variance.sum()), _TINY_VARIANCE)

    @cached_property
    def null_loss(self) -> float:
        """The loss where all weights are zero: the entropy of the class shares, in nats."""
        return self.loss(np.tile(self.null_bias(), (self.num_rows, 1)))


def _row_max(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Largest value of each row; column by column where NumPy's loop over short rows is slow."""
    if values.shape[1] > _FEW_CLASSES:
        return values.max(axis=1)
    peak = values[:, 0].copy()
    for column in values.T[1:]:
        np.maximum(peak, column, out=peak)
    return peak


def _row_sum(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return values @ np.ones(values.shape[1], dtype=values.dtype)  # BLAS: fast for short rows


def _transpose(matrix: Matrix) -> Matrix:
    return matrix.T.tocsr() if sp.issparse(matrix) else matrix.T


def _example_weights(
    labels: Int[np.ndarray, " n"], num_classes: int, balanced: bool
) -> Float[np.ndarray, " n"]:
    if not balanced:
        return np.ones(labels.shape[0])
    counts = np.bincount(labels, minlength=num_classes)
    return labels.shape[0] / (np.count_nonzero(counts) * counts[labels])


def penalty_value(weights: Float[np.ndarray, "..."], penalty: float, l1_ratio: float) -> float:
    """The elastic-net term of the objective."""
    l1, l2 = np.abs(weights).sum(), (weights**2).sum()
    return float(penalty * (l1_ratio * l1 + 0.5 * (1.0 - l1_ratio) * l2))


def kkt_violations(
    weights: Float[np.ndarray, "..."],
    gradient: Float[np.ndarray, "..."],
    penalty: float,
    l1_ratio: float,
) -> Float[np.ndarray, "..."]:
    """How far each weight is from optimality: distance of 0 to the subdifferential.

    Zero where `gradient + penalty * (1 - l1_ratio) * w + penalty * l1_ratio * sign(w)`
    vanishes (for w = 0: where `|gradient| <= penalty * l1_ratio`).
    """
    smooth = gradient + penalty * (1.0 - l1_ratio) * weights
    at_zero = np.maximum(np.abs(smooth) - penalty * l1_ratio, 0.0)
    elsewhere = np.abs(smooth + penalty * l1_ratio * np.sign(weights))
    return np.where(weights == 0, at_zero, elsewhere)


def unscale(
    design: Design, weights: Float[np.ndarray, "c k"], bias: Float[np.ndarray, " k"]
) -> tuple[Float[np.ndarray, "k c"], Float[np.ndarray, " k"]]:
    """Weights (k, c) and bias for the codes as they come, with scale and shift folded in."""
    return (weights / design.scale[:, None]).T.copy(), bias - design.shift @ weights
