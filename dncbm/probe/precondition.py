"""A change of variables that makes L2 problems round, so that L-BFGS needs few steps.

Near its minimum the loss of class j curves like `h_j * G + penalty * I`, with `G` the covariance
of the scaled codes and `h_j = s_j (1 - s_j)` for the class share `s_j` (the Hessian of softmax
regression at zero weights, block of one class). In variables `v = L' w` with `L L'` that matrix
the curvature is near one in every direction. Only the path to the minimum depends on this, never
the minimum itself, hence a sample of the rows is enough for `G`.
"""

from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from dncbm.probe.loss import Design

_MAX_ROWS = 2_000
_MAX_COLUMNS = 4096
_MAX_ENTRIES = 20_000_000
_MAX_SPECTRUM = 1024
_LEAST = 1e-6


def class_curvature(design: Design) -> Float[np.ndarray, " k"]:
    """`s (1 - s)` for the share s of each class: the curvature by its logit at zero weights."""
    shares = np.bincount(design.labels, design.example_weights, minlength=design.num_classes)
    shares = shares / shares.sum()
    return np.maximum(shares * (1.0 - shares), _LEAST)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Diagonal:
    size: Float[np.ndarray, "c k"]
    """Weight per unit of its variable."""
    mask: Bool[np.ndarray, "c k"] | None

    def free(self, table: Float[np.ndarray, "c k"]) -> Float[np.ndarray, "..."]:
        return table.ravel() if self.mask is None else table[self.mask]

    def enter(self, weights: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return self.free(weights / self.size)

    def pull(self, gradient: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return self.free(gradient * self.size)

    def leave(self, variables: Float[np.ndarray, " p"]) -> Float[np.ndarray, "c k"]:
        if self.mask is None:
            return variables.reshape(self.size.shape) * self.size
        weights = np.zeros(self.size.shape)
        weights[self.mask] = variables
        return weights * self.size


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """One Cholesky factor per class, padded with the identity to the longest list."""

    rows: Int[np.ndarray, "k m"]
    valid: Bool[np.ndarray, "k m"]
    lower: Float[np.ndarray, "k m m"]
    inverse: Float[np.ndarray, "k m m"]
    num_columns: int

    @classmethod
    def build(cls, design: Design, mask: Bool[np.ndarray, "c k"], penalty: float) -> "_Blocks":
        counts = mask.sum(axis=0)
        order = np.argsort(~mask, axis=0, kind="stable")[: counts.max()].T
        valid = np.arange(order.shape[1])[None, :] < counts[:, None]
        both = valid[:, :, None] & valid[:, None, :]
        blocks = covariance(design)[order[:, :, None], order[:, None, :]]
        blocks *= both * class_curvature(design)[:, None, None]
        diagonal = np.arange(order.shape[1])
        blocks[:, diagonal, diagonal] += np.where(valid, max(penalty, _LEAST), 1.0)
        lower = np.linalg.cholesky(blocks)
        return cls(order, valid, lower, np.linalg.inv(lower), mask.shape[0])

    def _take(self, table: Float[np.ndarray, "c k"]) -> Float[np.ndarray, "k m"]:
        return np.where(self.valid, np.take_along_axis(table.T, self.rows, axis=1), 0.0)

    def free(self, table: Float[np.ndarray, "c k"]) -> Float[np.ndarray, "..."]:
        return self._take(table)

    def enter(self, weights: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return np.einsum("kij,ki->kj", self.lower, self._take(weights)).ravel()

    def pull(self, gradient: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return np.matmul(self.inverse, self._take(gradient)[:, :, None]).ravel()

    def leave(self, variables: Float[np.ndarray, " p"]) -> Float[np.ndarray, "c k"]:
        values = np.matmul(variables.reshape(self.rows.shape)[:, None, :], self.inverse)[:, 0]
        weights = np.zeros((self.num_columns, len(self.rows)))
        np.put_along_axis(weights.T, self.rows, np.where(self.valid, values, 0.0), axis=1)
        return weights


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Spectrum:
    """All weights free: the blocks of all classes have the eigenvectors of `G` in common."""

    vectors: Float[np.ndarray, "c c"]
    size: Float[np.ndarray, "c k"]
    """Weight along each eigenvector per unit of its variable."""

    @classmethod
    def build(cls, design: Design, penalty: float) -> "_Spectrum":
        values, vectors = np.linalg.eigh(covariance(design))
        curvature = np.outer(np.maximum(values, 0.0), class_curvature(design))
        return cls(vectors, (curvature + max(penalty, _LEAST)) ** -0.5)

    def free(self, table: Float[np.ndarray, "c k"]) -> Float[np.ndarray, "..."]:
        return table

    def enter(self, weights: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return (self.vectors.T @ weights / self.size).ravel()

    def pull(self, gradient: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return (self.vectors.T @ gradient * self.size).ravel()

    def leave(self, variables: Float[np.ndarray, " p"]) -> Float[np.ndarray, "c k"]:
        return self.vectors @ (variables.reshape(self.size.shape) * self.size)


Coordinates: TypeAlias = _Diagonal | _Blocks | _Spectrum
"""Which weights of a (c, k) table are free, and the variables (p,) that stand for them.

`enter` gives the variables of weights, `leave` the weights of variables (zero where not free),
`pull` the gradient by the variables from that by the weights, and `free` the free entries of a
table, with zeros as padding.
"""


def coordinates(
    design: Design, mask: Bool[np.ndarray, "c k"] | None, penalty: float
) -> Coordinates:
    """Round coordinates of the free weights where that is cheap, else scaled ones."""
    if mask is None:
        if design.num_columns <= _MAX_SPECTRUM:
            return _Spectrum.build(design, penalty)
    else:
        most = int(mask.sum(axis=0).max())
        if design.num_columns <= _MAX_COLUMNS and design.num_classes * most**2 <= _MAX_ENTRIES:
            return _Blocks.build(design, mask, penalty)
    shares = class_curvature(design)
    curvature = np.outer(design.variance, shares) + max(penalty, _LEAST)
    return _Diagonal(curvature**-0.5, mask)


def covariance(design: Design) -> Float[np.ndarray, "c c"]:
    """Covariance of the scaled columns, over at most 2,000 evenly spaced rows."""
    step = -(-design.num_rows // _MAX_ROWS)
    # float64 keeps the table positive semidefinite where columns are alike.
    sample = design.matrix[::step].astype(np.float64)
    products = sample.T @ sample
    table = products.toarray() if sp.issparse(products) else products
    mean = np.asarray(sample.mean(axis=0)).ravel()
    centred = table / sample.shape[0] - np.outer(mean, mean)
    return centred / np.outer(design.scale, design.scale)
