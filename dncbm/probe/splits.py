"""The rows a probe is trained, chosen and measured on."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Int

from dncbm.errors import InvalidInput, UnknownName
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

SPLITS = ("train", "validation", "test")
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


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HoldOut:
    """How validation rows are held out of the training rows where none are given."""

    fraction: float = 0.1
    seed: int = 0


def prepare_splits(
    codes: Codes | Mapping[str, Codes],
    labels: Labels | Mapping[str, Labels],
    classes: Sequence[str],
    *,
    options: HoldOut,
    dtype: str,
) -> Splits:
    """Checked splits; validation is held out of train where it is missing or empty.

    Raises:
        UnknownName: a split other than train, validation and test; an unknown label.
        InvalidInput: what `train_probe` says.
    """
    given = named_splits(codes, labels)
    splits = {
        name: checked_split(*pair, classes, name, dtype)
        for name, pair in given.items()
        if name == "train" or pair[0].shape[0] > 0
    }
    train = splits["train"]
    check_classes_covered(train.labels, classes)
    _check_widths(train, *splits.values())
    _check_not_all_zero(train.matrix)
    test, validation = splits.get("test"), splits.get("validation")
    if validation is not None:
        return Splits(train=train, validation=validation, test=test)
    held = hold_out(train.labels, options.fraction, options.seed)
    if not held.any():
        logger.warning(NO_VALIDATION)
        return Splits(train=train, validation=None, test=test, notes=(NO_VALIDATION,))
    return Splits(train=_take(train, ~held), validation=_take(train, held), test=test)


def named_splits(
    codes: Codes | Mapping[str, Codes], labels: Labels | Mapping[str, Labels]
) -> dict[str, tuple[Codes, Labels]]:
    """Codes and labels of each split; bare ones are the train split.

    Raises:
        UnknownName: a split other than train, validation and test.
        InvalidInput: no train split, or splits of codes and of labels that differ.
    """
    by_codes = codes if isinstance(codes, Mapping) else {"train": codes}
    by_labels = labels if isinstance(labels, Mapping) else {"train": labels}
    for name in by_codes:
        if name not in SPLITS:
            raise UnknownName("split", name, SPLITS)
    if by_codes.keys() != by_labels.keys() or "train" not in by_codes:
        raise InvalidInput(
            f"Codes are given for the splits {', '.join(by_codes) or 'none'} and labels for "
            f"{', '.join(by_labels) or 'none'}; both need train, and the same others."
        )
    return {name: (by_codes[name], by_labels[name]) for name in by_codes}


def checked_split(
    codes: Codes, labels: Labels, classes: Sequence[str], what: str, dtype: str
) -> Split:
    """One split with its codes and labels checked.

    Raises:
        InvalidInput: empty, NaN, wrong shapes, labels outside the classes.
    """
    matrix = code_matrix(codes, what=f"{what} codes", dtype=dtype)
    indices = class_indices(labels, classes)
    check_same_length(matrix, indices, what)
    return Split(matrix, indices)


def hold_out(labels: Int[np.ndarray, " n"], fraction: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Mark a stratified share of the rows.

    Classes with fewer than three rows give none, and at least one row of each class stays.
    """
    draw = np.random.default_rng(derive_seed(seed, "probe-validation"))
    held = np.zeros(labels.shape[0], dtype=bool)
    for label in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == label))
        if len(rows) >= 3:
            count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
            held[rows[:count]] = True
    return held


def stratified_rows(labels: Int[np.ndarray, " n"], most: int, seed: int) -> Int[np.ndarray, " m"]:
    """Sorted indices of about `most` rows in the class shares of all, of each class at least one.

    All rows where there are no more than that.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    draw = np.random.default_rng(derive_seed(seed, "probe-subsample"))
    chosen = [
        draw.permutation(rows)[: max(1, round(most * len(rows) / len(labels)))]
        for rows in (np.flatnonzero(labels == label) for label in np.unique(labels))
    ]
    return np.sort(np.concatenate(chosen))


def _take(split: Split, rows: Bool[np.ndarray, " n"]) -> Split:
    chosen = np.flatnonzero(rows)
    return Split(split.matrix[chosen], split.labels[chosen])


def _check_widths(train: Split, *others: Split) -> None:
    for other in others:
        if other.matrix.shape[1] != train.matrix.shape[1]:
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
