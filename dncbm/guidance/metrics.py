"""How well networks classify, also where they are worst: per group, and with several labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dncbm.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class GroupAccuracy:
    """Accuracy within each group, and of the group that it is lowest in."""

    accuracy: Mapping[str, float]
    """By group, sorted by name; groups without photos are not there."""
    images: Mapping[str, int]
    """Photos of each group."""
    overall: float
    """Share of all photos of the groups that are right."""

    @property
    def worst(self) -> float:
        """Accuracy of the worst group."""
        return min(self.accuracy.values())

    @property
    def worst_group(self) -> str:
        """The first by name where several are equally bad."""
        return min(self.accuracy, key=self.accuracy.__getitem__)

    @property
    def mean(self) -> float:
        """Mean over groups, whatever their size."""
        return sum(self.accuracy.values()) / len(self.accuracy)

    def table(self) -> list[dict[str, object]]:
        """A row per group."""
        return [
            {"group": name, "images": self.images[name], "accuracy": value}
            for name, value in self.accuracy.items()
        ]


Groups = Sequence[str | None] | Int[np.ndarray, " n"]
"""Names, or numbers; None and negative numbers are no group."""


def group_accuracy(right: Bool[np.ndarray, " n"], groups: Groups) -> GroupAccuracy:
    """Accuracy per group (Sagawa et al. 2020); photos without a group count nowhere.

    Args:
        right: whether each photo is classified rightly.
        groups: of each photo, class and background together say.

    Raises:
        InvalidInput: lengths that differ, or no photo with a group.
    """
    if len(right) != len(groups):
        raise InvalidInput(f"{len(right)} decisions but {len(groups)} groups; give one each.")
    told = np.array([_is_group(group) for group in groups], dtype=bool)
    if not told.any():
        raise InvalidInput(
            "No photo has a group. Give Waterbirds' metadata.csv or a manifest with the column "
            "'group'."
        )
    names, places = np.unique([str(g) for g in groups if _is_group(g)], return_inverse=True)
    images = np.bincount(places)
    hits = np.bincount(places, right[told].astype(float))
    return GroupAccuracy(
        dict(zip(names.tolist(), (hits / images).tolist(), strict=True)),
        dict(zip(names.tolist(), images.tolist(), strict=True)),
        float(right[told].mean()),
    )


def worst_group(right: Bool[np.ndarray, " n"], groups: Groups) -> float:
    """Accuracy of the group in which it is lowest; raises as `group_accuracy` does."""
    return group_accuracy(right, groups).worst


def _is_group(group: object) -> bool:
    return group is not None and not (isinstance(group, int | np.integer) and group < 0)


def decisions(
    logits: Float[Tensor, "n k"], truth: Bool[Tensor, "n k"], *, multiple: bool
) -> dict[str, float]:
    """Figures of a network's decisions.

    Args:
        logits: of photos and classes.
        truth: classes that each photo shows; of exactly one, unless `multiple`.
        multiple: several classes per photo.

    Returns:
        `accuracy`, or with several classes `f1` (micro), `macro_f1` and `map`.

    Raises:
        InvalidInput: shapes that differ, or logits that are not numbers.
    """
    found, right = logits.detach().cpu().double().numpy(), truth.cpu().numpy().astype(bool)
    _require(found, right)
    if not multiple:
        return {"accuracy": float((found.argmax(axis=1) == right.argmax(axis=1)).mean())}
    return {
        "f1": micro_f1(found, right), "macro_f1": macro_f1(found, right),
        "map": mean_average_precision(found, right),
    }  # fmt: skip


def micro_f1(logits: Float[np.ndarray, "n k"], truth: Bool[np.ndarray, "_ _"]) -> float:
    """F1 over all decisions of all classes together, a class being named where its logit is > 0.

    2 TP / (2 TP + FP + FN); 0 where nothing is named and nothing is there.

    Raises:
        InvalidInput: shapes that differ, or logits that are not numbers.
    """
    hits, misses, extras = (counts.sum(keepdims=True) for counts in _counts(logits, truth))
    return float(_f1(hits, misses, extras)[0])


def macro_f1(logits: Float[np.ndarray, "n k"], truth: Bool[np.ndarray, "_ _"]) -> float:
    """Mean over classes of their F1 at a logit of 0.

    Classes that are neither there nor named do not count; 0 where no class counts.

    Raises:
        InvalidInput: shapes that differ, or logits that are not numbers.
    """
    hits, misses, extras = _counts(logits, truth)
    counted = hits + misses + extras > 0
    return float(_f1(hits, misses, extras)[counted].mean()) if counted.any() else 0.0


def mean_average_precision(
    logits: Float[np.ndarray, "n k"], truth: Bool[np.ndarray, "_ _"]
) -> float:
    """Mean over classes of their average precision; NaN where no class is anywhere.

    Average precision is the sum over thresholds of (recall gained) x (precision), without
    interpolation; equal logits pass a threshold together. Classes that no photo shows do not count.

    Raises:
        InvalidInput: shapes that differ, or logits that are not numbers.
    """
    _require(logits, truth)
    found = [
        _average_precision(logits[:, k], truth[:, k]) for k in np.flatnonzero(truth.any(axis=0))
    ]
    return float(np.mean(found)) if found else float("nan")


def _average_precision(logits: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    order = np.argsort(-logits, kind="stable")
    ranked, shown = logits[order], truth[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of those with equal logits
    hits = shown.cumsum()[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / shown.sum())


def _counts(
    logits: Float[np.ndarray, "n k"], truth: Bool[np.ndarray, "_ _"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, false negatives, false positives of each class."""
    _require(logits, truth)
    named = logits > 0
    return (named & truth).sum(axis=0), (~named & truth).sum(axis=0), (named & ~truth).sum(axis=0)


def _f1(hits: np.ndarray, misses: np.ndarray, extras: np.ndarray) -> np.ndarray:
    return 2 * hits / np.maximum(2 * hits + misses + extras, 1)


def _require(logits: np.ndarray, truth: np.ndarray) -> None:
    if logits.shape != truth.shape or logits.size == 0:
        raise InvalidInput(
            f"Logits have shape {logits.shape}, the truth {truth.shape}; the rule is one shape, "
            "not empty."
        )
    if np.isnan(logits).any():
        raise InvalidInput(f"{int(np.isnan(logits).sum())} of {logits.size} logits are NaN.")
