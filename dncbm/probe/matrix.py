"""Codes and labels as the solvers read them: checked, dense or CSR, scaled but never centred."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dncbm.errors import InvalidInput, UnknownName

Codes: TypeAlias = Any
"""A float tensor, a NumPy array or a SciPy sparse matrix of shape (n, c)."""
Labels: TypeAlias = Any
"""Class indices (tensor, array, sequence of int) or class names, one per row."""
Matrix: TypeAlias = Any
"""What `code_matrix` returns: a 2-D float array, or a `csr_array`."""

SPARSE_BELOW = 0.1
"""Dense codes with a smaller share of non-zeros are multiplied as CSR."""
_FEW_WEIGHTS = 0.05
_BLOCK_ROWS = 8192


def code_matrix(codes: Codes, *, what: str = "codes", dtype: str = "float64") -> Matrix:
    """The codes as a float matrix: CSR where that is faster, dense otherwise.

    Raises:
        InvalidInput: not two-dimensional, empty, or NaN or infinity inside.
    """
    values = codes.detach().cpu().numpy() if isinstance(codes, Tensor) else codes
    if not sp.issparse(values):
        values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise InvalidInput(
            f"The {what} have shape {tuple(values.shape)}; expected (images, concepts) with at "
            "least one of each. Check the split and its labels."
        )
    matrix = sp.csr_array(values, dtype=dtype) if _is_sparse(values) else values.astype(dtype)
    stored = matrix.data if sp.issparse(matrix) else matrix
    if not np.isfinite(stored).all():
        raise InvalidInput(
            f"The {what} hold NaN or infinity. Look for broken images or a diverged SAE, "
            "then embed or train again."
        )
    return matrix


def _is_sparse(values: Any) -> bool:
    if sp.issparse(values):
        return True
    return bool(np.count_nonzero(values) < SPARSE_BELOW * values.size)


def class_indices(labels: Labels, classes: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Index into `classes` of each label, given as index or as name.

    Raises:
        UnknownName: a name that is not a class.
        InvalidInput: an index outside the classes, or labels that are neither.
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.dtype.kind in "UO":
        known = {name: index for index, name in enumerate(classes)}
        unknown = sorted({str(value) for value in values.ravel()} - known.keys())
        if unknown:
            raise UnknownName("class", unknown[0], classes)
        values = np.array([known[str(value)] for value in values.ravel()], dtype=np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InvalidInput(
            f"Labels must be one class index or class name per row, got {values.dtype} of shape "
            f"{values.shape}."
        )
    if values.size and not (values.min() >= 0 and values.max() < len(classes)):
        raise InvalidInput(
            f"Labels run from {values.min()} to {values.max()}, but there are {len(classes)} "
            f"classes: indices are 0 to {len(classes) - 1}."
        )
    return values.astype(np.int64)


def check_same_length(matrix: Matrix, labels: Int[np.ndarray, " n"], what: str) -> None:
    """Refuse a split with another number of rows than labels."""
    if matrix.shape[0] != labels.shape[0]:
        raise InvalidInput(
            f"The {what} split has {matrix.shape[0]} rows of codes and {labels.shape[0]} labels; "
            "there must be one label per row."
        )


def check_classes_covered(labels: Int[np.ndarray, " n"], classes: Sequence[str]) -> None:
    """Refuse to train on fewer than two classes, or with classes that have no image."""
    if len(classes) < 2:
        raise InvalidInput(
            f"Only one class ({', '.join(classes)}) is present; a classifier needs at least "
            "two. Add images of another class."
        )
    counts = np.bincount(labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise InvalidInput(
            f"{len(empty)} of {len(classes)} classes have no training image: "
            f"{', '.join(empty[:5])}. Add images or leave these classes out."
        )


def dense_rows(matrix: Matrix, rows: Int[np.ndarray, " m"]) -> Float[Tensor, "m c"]:
    """Some rows as a dense float32 tensor."""
    block = matrix[rows]
    array = block.toarray() if sp.issparse(block) else block
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def times(matrix: Matrix, weights: Float[np.ndarray, "c k"]) -> Float[np.ndarray, "n k"]:
    """The product of codes and weights; it costs little where both have few non-zeros."""
    few = np.count_nonzero(weights) < _FEW_WEIGHTS * weights.size
    if not (few and sp.issparse(matrix)):
        return matrix @ weights
    starts, table = range(0, matrix.shape[0], _BLOCK_ROWS), sp.csr_array(weights)
    return np.concatenate(
        [(matrix[start : start + _BLOCK_ROWS] @ table).toarray() for start in starts]
    )


def column_rms(matrix: Matrix) -> Float[np.ndarray, " c"]:
    """Root of the mean square of each column; 1 for columns that are all zero."""
    squares = matrix.multiply(matrix) if sp.issparse(matrix) else matrix**2
    rms = np.sqrt(np.asarray(squares.sum(axis=0)).ravel() / matrix.shape[0])
    return np.where(rms > 0, rms, 1.0).astype(matrix.dtype)


def column_mean(matrix: Matrix) -> Float[np.ndarray, " c"]:
    """Mean of each column."""
    return np.asarray(matrix.mean(axis=0)).ravel().astype(matrix.dtype)
