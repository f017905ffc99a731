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
from jaxtyping import Float

from dncbm.probe.loss import Design

_MAX_ROWS = 2_000
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

    def enter(self, weights: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return (weights / self.size).ravel()

    def pull(self, gradient: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return (gradient * self.size).ravel()

    def leave(self, variables: Float[np.ndarray, " p"]) -> Float[np.ndarray, "c k"]:
        return variables.reshape(self.size.shape) * self.size


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Spectrum:
    """The blocks of all classes have the eigenvectors of `G` in common."""

    vectors: Float[np.ndarray, "c c"]
    size: Float[np.ndarray, "c k"]
    """Weight along each eigenvector per unit of its variable."""

    @classmethod
    def build(cls, design: Design, penalty: float) -> "_Spectrum":
        values, vectors = np.linalg.eigh(covariance(design))
        curvature = np.outer(np.maximum(values, 0.0), class_curvature(design))
        return cls(vectors, (curvature + max(penalty, _LEAST)) ** -0.5)

    def enter(self, weights: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return (self.vectors.T @ weights / self.size).ravel()

    def pull(self, gradient: Float[np.ndarray, "c k"]) -> Float[np.ndarray, " p"]:
        return (self.vectors.T @ gradient * self.size).ravel()

    def leave(self, variables: Float[np.ndarray, " p"]) -> Float[np.ndarray, "c k"]:
        return self.vectors @ (variables.reshape(self.size.shape) * self.size)


Coordinates: TypeAlias = _Diagonal | _Spectrum
"""The variables (p,) that stand for a (c, k) table of weights.

`enter` gives the variables of weights, `leave` the weights of variables and `pull` the gradient
by the variables from that by the weights.
"""


def coordinates(design: Design, penalty: float) -> Coordinates:
    """Round coordinates where that is cheap, else scaled ones."""
    if design.num_columns <= _MAX_SPECTRUM:
        return _Spectrum.build(design, penalty)
    curvature = np.outer(design.variance, class_curvature(design)) + max(penalty, _LEAST)
    return _Diagonal(curvature**-0.5)


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
