"""Which concept of one dictionary is which of another: matched by the cosine of directions."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from dncbm.errors import ArtifactMismatch, InvalidInput, UnknownName

Method = Literal["optimal", "mutual"]
MIN_COSINE = 0.7
"""Directions less alike than this are different concepts."""
_MOST_OPTIMAL = 4096
"""Concepts up to which the optimal matching takes seconds; its time grows with the cube."""
_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Matching:
    """Pairs of concepts, and how near each concept comes to the other dictionary."""

    method: Method
    pairs: tuple[tuple[int, int], ...]
    """(concept of a, concept of b), by the first."""
    cosines: tuple[float, ...]
    nearest_a: Float[np.ndarray, " c_a"]
    """Largest cosine of each concept of a with any of b."""
    nearest_b: Float[np.ndarray, " c_b"]


def match_directions(
    a: Float[Tensor, "c_a d"],
    b: Float[Tensor, "c_b d_b"],
    *,
    min_cosine: float = MIN_COSINE,
    method: str | None = None,
) -> Matching:
    """Pair the rows of two dictionaries, each at most once and none below `min_cosine`.

    Args:
        a: directions, of any norm.
        b: likewise.
        min_cosine: in (0, 1].
        method: `optimal` makes the sum of cosines above `min_cosine` as large as it can be;
            `mutual` pairs rows that are each other's nearest. Default: `optimal` up to 4,096 rows.

    Raises:
        InvalidInput: `min_cosine` outside its range.
        ArtifactMismatch: directions of different widths.
    """
    if not 0 < min_cosine <= 1:
        raise InvalidInput(f"min_cosine is {min_cosine}; it must be above 0 and at most 1.")
    if a.shape[1] != b.shape[1]:
        raise ArtifactMismatch(
            f"Directions of width {a.shape[1]} and {b.shape[1]} cannot be compared: the "
            "dictionaries belong to different encoders. Compare two of one encoder."
        )
    a, b = normalize(a.float(), dim=1), normalize(b.float(), dim=1)
    chosen = method or ("optimal" if max(len(a), len(b)) <= _MOST_OPTIMAL else "mutual")
    if chosen == "optimal":
        cosines = (a @ b.T).numpy()
        rows, columns = linear_sum_assignment(np.maximum(cosines - min_cosine, 0), maximize=True)
        values = cosines[rows, columns]
        nearest_a, nearest_b = cosines.max(axis=1), cosines.max(axis=0)
    elif chosen == "mutual":
        rows, columns, values, nearest_a, nearest_b = _mutual(a, b)
    else:
        raise UnknownName("method of matching", chosen, ("optimal", "mutual"))
    good = values >= min_cosine
    return Matching(
        method="optimal" if chosen == "optimal" else "mutual",
        pairs=tuple(zip(rows[good].tolist(), columns[good].tolist(), strict=True)),
        cosines=tuple(float(value) for value in values[good]),
        nearest_a=nearest_a,
        nearest_b=nearest_b,
    )


def _mutual(a: Tensor, b: Tensor) -> tuple[np.ndarray, ...]:
    """Rows that are each other's nearest, and the nearest cosines, in memory of one block."""
    best_a, place_a = np.empty(len(a), np.float32), np.empty(len(a), np.int64)
    best_b, place_b = np.full(len(b), -np.inf, np.float32), np.zeros(len(b), np.int64)
    for start in range(0, len(a), _BLOCK):
        block = (a[start : start + _BLOCK] @ b.T).numpy()
        part = slice(start, start + len(block))
        best_a[part], place_a[part] = block.max(axis=1), block.argmax(axis=1)
        highest = block.max(axis=0)
        better = highest > best_b
        best_b[better] = highest[better]
        place_b[better] = start + block.argmax(axis=0)[better]
    rows = np.flatnonzero(place_b[place_a] == np.arange(len(a)))
    return rows, place_a[rows], best_a[rows], best_a, best_b
