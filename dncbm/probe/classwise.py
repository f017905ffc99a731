"""Softmax regression seen one class at a time: its logits, its slopes, the few columns it reads.

A class with few weights touches few columns, and those are sparse: what a step of one class
costs is its rows and the non-zeros of its columns, never the table of all concepts.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from dncbm.probe.loss import Design
from dncbm.probe.matrix import Matrix

_PAIRS_BELOW = 0.15
"""Share of non-zeros below which products of pairs of non-zeros beat a dense product."""
_LEAST_CURVATURE = 1e-5
_CLASSES_AT_ONCE = 48
"""Slopes of this many classes are multiplied with all columns at once, in the fast cache."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A design's columns in one floating type, ready to be sliced."""

    transposed: Matrix
    """(c, n), not scaled."""
    scale: Float[np.ndarray, " c"]
    shift: Float[np.ndarray, " c"]
    share: Float[np.ndarray, " n"]
    """Example weights that sum to 1."""
    labels: Int[np.ndarray, " n"]
    num_classes: int

    @classmethod
    def of(cls, design: Design, dtype: str) -> "Columns":
        """The columns of a design; nothing is copied where the type is the same."""
        return cls(
            transposed=design.transposed.astype(dtype, copy=False),
            scale=design.scale.astype(dtype, copy=False),
            shift=design.shift.astype(dtype, copy=False),
            share=(design.example_weights / design.num_rows).astype(dtype, copy=False),
            labels=design.labels,
            num_classes=design.num_classes,
        )

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return np.dtype(self.scale.dtype)

    def pullback(self, slopes: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "c k"]:
        """Gradient of the weights of k classes from the slopes of their logits."""
        products = self.transposed @ np.ascontiguousarray(slopes.T)
        products /= self.scale[:, None]
        products -= np.outer(self.shift, slopes.sum(axis=1))
        return products


@final
class Block:
    """The scaled columns that the weights of one class use."""

    def __init__(self, columns: Columns, chosen: Int[np.ndarray, " m"]) -> None:
        self.chosen = chosen
        self.shift = columns.shift[chosen].astype(np.float64)
        self._table = _scaled(columns.transposed[chosen], columns.scale[chosen])
        self._across = self._table.T
        self._pairs: _Pairs | None = None

    @property
    def size(self) -> int:
        """Stored numbers."""
        return int(self._table.size)

    def pull(self, slopes: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
        """Products of each column with a number per row."""
        return (self._table @ slopes).astype(np.float64)

    def move(self, weights: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
        """What weights add to the logit of each row."""
        return self._across @ weights.astype(self._table.dtype)

    def curvature(self, by_row: Float[np.ndarray, " n"]) -> Float[np.ndarray, "m m"]:
        """Products of each two columns, every row weighed by a number."""
        if not sp.issparse(self._table):
            return ((self._table * by_row) @ self._across).astype(np.float64)
        if self._pairs is None:
            self._pairs = _Pairs.of(self._table)
        return self._pairs.curvature(by_row)


def _scaled(table: Matrix, scale: Float[np.ndarray, " m"]) -> Matrix:
    """Rows (a fresh copy) divided by their scale, as array where they are not sparse."""
    if not sp.issparse(table):
        return table / scale[:, None]
    table.data /= np.repeat(scale, np.diff(table.indptr))
    rows, columns = table.shape
    return table if table.nnz < _PAIRS_BELOW * rows * columns else table.toarray()


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """All pairs of non-zeros in the same row, first column not after the second."""

    row: Int[np.ndarray, " p"]
    place: Int[np.ndarray, " p"]
    """Flat index into the (m, m) table of products."""
    product: Float[np.ndarray, " p"]
    size: int

    @classmethod
    def of(cls, table: sp.csr_array) -> "_Pairs":
        by_row = table.T.tocsr()
        row = np.repeat(np.arange(by_row.shape[0], dtype=np.int32), np.diff(by_row.indptr))
        # Each stored number meets itself and all after it in its row.
        meets = by_row.indptr[row + 1] - np.arange(by_row.nnz)
        first = np.repeat(np.arange(by_row.nnz), meets)
        before = np.repeat(np.cumsum(meets) - meets, meets)
        second = first + np.arange(len(first)) - before
        low, high = by_row.indices[first], by_row.indices[second]
        low, high = np.minimum(low, high), np.maximum(low, high)
        product = by_row.data[first] * by_row.data[second]
        return cls(row[first], low * table.shape[0] + high, product, table.shape[0])

    def curvature(self, by_row: Float[np.ndarray, " n"]) -> Float[np.ndarray, "m m"]:
        weighed = self.product * by_row[self.row]
        sums = np.bincount(self.place, weighed, minlength=self.size**2)
        upper = sums.reshape(self.size, self.size)
        return upper + np.triu(upper, 1).T


@final
class ClassLogits:
    """Logits of all rows, contiguous for each class, and the softmax that they give.

    The powers are relative to each row's largest logit at the last `refresh`, which is due
    after all classes have moved.
    """

    def __init__(self, columns: Columns) -> None:
        order = np.argsort(columns.labels, kind="stable")
        counts = np.bincount(columns.labels, minlength=columns.num_classes)
        self._columns = columns
        self._members = np.split(order, np.cumsum(counts)[:-1])
        self._logits = np.zeros((columns.num_classes, len(columns.labels)), columns.dtype)
        self._powers = np.ones_like(self._logits)

    def load(self, weights: Float[np.ndarray, "c k"], bias: Float[np.ndarray, " k"]) -> None:
        """Set the logits to those of weights and bias."""
        for index, row in enumerate(self._logits):
            used = np.flatnonzero(weights[:, index])
            block, chosen = Block(self._columns, used), weights[used, index]
            row[:] = block.move(chosen) + row.dtype.type(bias[index] - block.shift @ chosen)
        self.refresh()

    def refresh(self) -> None:
        """Compute the softmax anew from the logits."""
        self._peak = self._logits.max(axis=0)
        np.subtract(self._logits, self._peak, out=self._powers)
        np.exp(self._powers, out=self._powers)
        self._totals = self._powers.sum(axis=0)

    def loss(self) -> float:
        """Weighted mean cross entropy, summed in float64."""
        own = self._logits[self._columns.labels, np.arange(len(self._peak))]
        losses = np.log(self._totals) + (self._peak - own)
        return float(losses.astype(np.float64) @ self._columns.share)

    def slopes(self, index: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """First and second derivative of the loss by the logits of one class."""
        chances = self._powers[index] / self._totals
        # A class that is certain everywhere would have no curvature and steps without end.
        curvature = np.maximum(chances * (1.0 - chances), _LEAST_CURVATURE) * self._columns.share
        chances[self._members[index]] -= 1.0
        return chances * self._columns.share, curvature

    def moved(self, index: int, move: Float[np.ndarray, " n"]) -> "_Moved":
        """What would be if the logits of one class moved."""
        logits = self._logits[index] + move
        powers = np.exp(logits - self._peak)
        totals = np.maximum(self._totals - self._powers[index], 0.0) + powers
        grown = np.log(totals / self._totals).astype(np.float64) @ self._columns.share
        members = self._members[index]
        gained = move[members].astype(np.float64) @ self._columns.share[members]
        return _Moved(logits, powers, totals, float(grown - gained))

    def accept(self, index: int, moved: "_Moved") -> None:
        """Take a move of one class."""
        self._logits[index], self._powers[index] = moved.logits, moved.powers
        self._totals = moved.totals

    def gradient(self) -> tuple[Float[np.ndarray, "c k"], Float[np.ndarray, " k"]]:
        """Gradient of all weights and of the bias, some classes at a time."""
        parts, totals = [], []
        for start in range(0, self._columns.num_classes, _CLASSES_AT_ONCE):
            chosen = range(start, min(start + _CLASSES_AT_ONCE, self._columns.num_classes))
            slopes = np.stack([self.slopes(index)[0] for index in chosen])
            parts.append(self._columns.pullback(slopes))
            totals.append(slopes.sum(axis=1))
        return np.concatenate(parts, axis=1), np.concatenate(totals)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Moved:
    logits: Float[np.ndarray, " n"]
    powers: Float[np.ndarray, " n"]
    totals: Float[np.ndarray, " n"]
    change: float
    """Of the loss."""
