"""Long-tail subsets of labelled photos, their head and tail, and few-shot subsets."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int

from dncbm.errors import InvalidInput
from dncbm.training.seeding import generator

_log = logging.getLogger(__name__)
PARTS = ("head", "mid", "tail")


def exponential_counts(num_classes: int, largest: int, ratio: float) -> list[int]:
    """n_i = largest · ratio^(i / (K − 1)), rounded down, at least 1: the papers' protocol.

    Args:
        num_classes: K.
        largest: photos of the most frequent class.
        ratio: photos of the rarest class over those of the most frequent one, in (0, 1]; what is
            called an imbalance of 100 is 0.01.

    Raises:
        InvalidInput: a ratio outside (0, 1], or fewer than two classes.
    """
    if not 0 < ratio <= 1:
        hint = f" Write {1 / ratio:g} for an imbalance of {ratio:g}." if ratio > 1 else ""
        raise InvalidInput(f"The long-tail ratio is {ratio}; the rule is in (0, 1].{hint}")
    if num_classes < 2 or largest < 1:
        raise InvalidInput(
            f"A long tail of {num_classes} classes with at most {largest} photos; the rule is at "
            "least 2 classes and 1 photo. Put each class into a folder of its own."
        )
    # 1e-9: a count that is whole in theory stays whole in floating point
    counts = [int(largest * ratio ** (i / (num_classes - 1)) + 1e-9) for i in range(num_classes)]
    return [max(1, count) for count in counts]


def exponential_rows(
    labels: Int[np.ndarray, " n"], ratio: float, *, seed: int, largest: int | None = None
) -> Int[np.ndarray, " m"]:
    """Rows of an exponential long-tail subset, ascending.

    Args:
        labels: class of each row; negative ones are left out.
        ratio: see `exponential_counts`.
        seed: which classes are frequent, and which of their photos stay.
        largest: photos of the most frequent class; by default those of the smallest class given,
            so that each class has enough for every place in the order.

    Raises:
        InvalidInput: a ratio outside (0, 1], one class, or a class with too few photos for its
            place.
    """
    classes, found = np.unique(labels[labels >= 0], return_counts=True)
    largest = int(found.min()) if largest is None and len(found) else largest or 0
    counts = exponential_counts(len(classes), largest, ratio)
    stream = generator(seed, "long-tail")
    order = torch.randperm(len(classes), generator=stream).tolist()
    kept = []
    for place, count in zip(order, counts, strict=True):
        rows = np.flatnonzero(labels == classes[place])
        if len(rows) < count:
            raise InvalidInput(
                f"Class {classes[place]} has {len(rows)} photos and its place in the long tail "
                f"asks for {count}. Give a smaller `largest` or another seed."
            )
        chosen = torch.randperm(len(rows), generator=stream)[:count].numpy()
        kept.append(rows[chosen])
    return np.sort(np.concatenate(kept))


def head_mid_tail(
    counts: Sequence[int], bounds: tuple[int, int] | None = None
) -> Int[np.ndarray, " k"]:
    """0 (head), 1 (mid) or 2 (tail) for each class, by its number of training photos.

    Args:
        counts: photos of each class.
        bounds: (low, high): tail has fewer than low photos, head more than high, as in
            Liu et al. 2019 with (20, 100). None: thirds of the classes in order of their counts
            (equal counts by index), the mid taking what does not divide.

    Raises:
        InvalidInput: bounds that are not in order.
    """
    numbers = np.asarray(counts)
    if bounds is not None:
        if bounds[0] > bounds[1]:
            raise InvalidInput(f"bounds are {bounds}; the rule is low before high.")
        return np.where(numbers > bounds[1], 0, np.where(numbers < bounds[0], 2, 1))
    third = len(numbers) // 3
    parts = np.ones(len(numbers), dtype=int)
    order = np.argsort(-numbers, kind="stable")
    parts[order[:third]] = 0
    parts[order[len(numbers) - third :]] = 2
    return parts


def few_shot_rows(
    labels: Int[np.ndarray, " n"], *, seed: int, shots: int | None = None
) -> Int[np.ndarray, " m"]:
    """A balanced subset: so many rows of each class, ascending.

    Args:
        labels: class of each row; negative ones are left out.
        seed: which rows.
        shots: rows per class; None: as many as the smallest class has. Where that is one, the
            protocol is one-shot, which is told.

    Raises:
        InvalidInput: no labels, or a class with fewer than `shots` rows.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(classes) == 0:
        raise InvalidInput("There are no labels. Put each class into a folder of its own.")
    smallest = int(counts.min())
    if shots is not None and (shots < 1 or smallest < shots):
        raise InvalidInput(
            f"A few-shot protocol of {shots} photos per class; class {classes[counts.argmin()]} "
            f"has {smallest}. The rule is from 1 to the smallest class: take {smallest}, or leave "
            "small classes out."
        )
    if shots is None and smallest == 1:
        _log.warning(
            "Class %d has one photo, so the few-shot protocol is one-shot: expect noise.",
            classes[counts.argmin()],
        )
    stream = generator(seed, "few-shot")
    kept = []
    for name in classes:
        rows = np.flatnonzero(labels == name)
        chosen = torch.randperm(len(rows), generator=stream)[: shots or smallest].numpy()
        kept.append(rows[chosen])
    return np.sort(np.concatenate(kept))
