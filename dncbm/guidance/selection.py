"""Which of many trained networks to keep: those that no other is better than in every respect."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from dncbm.errors import InvalidInput

BIN_WIDTH = 0.005
"""Of Rao et al. 2023's code: smaller differences are noise."""


def pareto_front(
    points: Sequence[Sequence[float]] | Float[np.ndarray, "n m"], bin_width: float = BIN_WIDTH
) -> list[int]:
    """Rows that no other row dominates, in order; larger is better in each of the m metrics.

    Metrics are rounded to multiples of `bin_width` (the even one of two that are equally near),
    then a row dominates another if it is at least as good in all metrics and better in one. Rows
    that are equal after rounding do not dominate each other, so all of them stay. A row with a NaN
    is a network that was not measured: it is neither on the front nor does it dominate.

    Args:
        points: a row per network, F1, EPG and IoU say; none give none.
        bin_width: 0 compares the metrics as they are.

    Raises:
        InvalidInput: no metric, or a negative width.
    """
    if len(points) == 0:
        return []
    values = np.asarray(points, dtype=float)
    if values.ndim != 2 or values.shape[1] == 0 or not 0 <= bin_width < np.inf:
        raise InvalidInput(
            f"Points of shape {values.shape} and bins of {bin_width}; the rule is a row per "
            "network, a column per metric, and bins that are not negative."
        )
    levels = np.rint(values / bin_width) if bin_width else values
    measured = np.flatnonzero(~np.isnan(values).any(axis=1))
    others = levels[measured]
    return [int(row) for row in measured if not _dominated(others, levels[row])]


def best_above(
    points: Float[np.ndarray, "n m"], *, by: int, column: int, floor: float
) -> int | None:
    """The row with the largest metric `by` among those whose metric `column` is at least `floor`.

    The best explanations at no more than half a point of F1 lost, say. The first of equally good
    rows; rows with a NaN in either metric do not count; None where no row is left.
    """
    usable = (points[:, column] >= floor) & ~np.isnan(points[:, by])
    if not usable.any():
        return None
    return int(np.where(usable, points[:, by], -np.inf).argmax())


def _dominated(others: Float[np.ndarray, "n m"], row: Float[np.ndarray, " m"]) -> bool:
    return bool(((others >= row).all(axis=1) & (others > row).any(axis=1)).any())
