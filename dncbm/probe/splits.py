"""The rows a probe is trained, chosen and measured on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Int

from dncbm.errors import InvalidInput
from dncbm.probe.matrix import (
    Codes,
    Labels,
    Matrix,
    check_classes_covered,
    check_same_length,
    class_indices,
    code_matrix,
)
from dncbm.training.seeding import derive_seed

logger = logging.getLogger(__name__)

NO_VALIDATION = (
    "No validation images: too few images per class to hold any out. Penalties are defaults and "
    "probabilities are not calibrated; give a validation split or more images."
)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Checked codes with a class index per row."""

    matrix: Matrix
    labels: Int[np.ndarray, " n"]


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Splits:
    """Train, validation (to choose and calibrate) and test (to report)."""

    train: Split
    validation: Split | None
    test: Split | None
    notes: tuple[str, ...] = ()
    """What the user should know about the data, in full sentences."""

    def named(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        every = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in every.items() if split is not None}


def checked_split(
    codes: Codes, labels: Labels, classes: Sequence[str], what: str, dtype: type = np.float64
) -> Split:
    """One split with its codes and labels checked.

    Raises:
        InvalidInput: empty, NaN, wrong shapes, labels outside the classes.
    """
    matrix = code_matrix(codes, what=f"{what} codes", dtype=dtype)
    indices = class_indices(labels, classes)
    check_same_length(matrix, indices, what)
    return Split(matrix, indices)


def prepare_splits(
    train: Split,
    validation: Split | None,
    test: Split | None,
    *,
    classes: Sequence[str],
    fraction: float,
    seed: int,
) -> Splits:
    """Check the splits against each other; hold out a validation split where none is given."""
    check_classes_covered(train.labels, classes)
    _check_widths(train, validation, test)
    _check_not_all_zero(train.matrix)
    notes: tuple[str, ...] = ()
    if validation is None:
        held = hold_out(train.labels, fraction, seed)
        if held.any():
            validation = _take(train, held)
            train = _take(train, ~held)
        else:
            logger.warning(NO_VALIDATION)
            notes = (NO_VALIDATION,)
    return Splits(train=train, validation=validation, test=test, notes=notes)


def hold_out(labels: Int[np.ndarray, " n"], fraction: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Mark a stratified share of the rows; classes with fewer than three rows give none."""
    draw = np.random.default_rng(derive_seed(seed, "probe-validation"))
    held = np.zeros(labels.shape[0], dtype=bool)
    for label in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == label))
        if len(rows) >= 3:
            held[rows[: max(1, round(fraction * len(rows)))]] = True
    return held


def _take(split: Split, rows: Bool[np.ndarray, " n"]) -> Split:
    chosen = np.flatnonzero(rows)
    return Split(split.matrix[chosen], split.labels[chosen])


def _check_widths(train: Split, *others: Split | None) -> None:
    for other in others:
        if other is not None and other.matrix.shape[1] != train.matrix.shape[1]:
            raise InvalidInput(
                f"Splits have {train.matrix.shape[1]} and {other.matrix.shape[1]} concepts; "
                "make the codes of all splits with the same dictionary."
            )


def _check_not_all_zero(matrix: Matrix) -> None:
    if not abs(matrix).max() > 0:
        raise InvalidInput(
            "All training codes are zero: no concept fires on any image. Train the dictionary "
            "with a smaller sparsity penalty, or on images like these."
        )
