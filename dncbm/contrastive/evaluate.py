"""How good features are for frequent and for rare classes: the protocol of the long-tail papers.

Features are frozen and brought to unit length; test photos are judged by the long-tailed training
photos. kNN@k, linear probes on a balanced few-shot subset and on all training photos; every
accuracy is a mean over classes, so that rare ones count as much (Kukleva et al. 2023).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from dncbm.contrastive.longtail import PARTS, few_shot_rows, head_mid_tail
from dncbm.errors import InvalidInput

NEIGHBOURS = (1, 10)
_AT_ONCE = 1024
"""Test rows whose cosines are in memory at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """Features with their classes."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " l"]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.labels) or len(self.labels) == 0:
            raise InvalidInput(
                f"{len(self.features)} rows of features and {len(self.labels)} labels; the rule "
                "is one label a row, and at least one row."
            )

    def unit(self) -> "Labelled":
        """With features of length 1; zeros stay."""
        lengths = np.linalg.norm(self.features, axis=1, keepdims=True)
        return Labelled(features=self.features / np.maximum(lengths, 1e-12), labels=self.labels)


def evaluate(
    train: Labelled, test: Labelled, *, seed: int = 0, shots: int | None = None,
    bounds: tuple[int, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """All figures of the protocol.

    Args:
        train: long-tailed or not.
        test: every class counts equally, whatever its number of rows.
        seed: of the few-shot subset and the probes.
        shots: see `few_shot_rows`.
        bounds: see `head_mid_tail`.

    Returns:
        `knn_1`, `knn_10`, `few_shot`, `long_tail` (accuracies of kNN and of the probes), each
        also as `..._head`, `..._mid`, `..._tail`; `shots` and `class_separation` (of the test
        features).

    Raises:
        InvalidInput: a test class without training rows, or a few-shot class with too few.
    """
    train, test = train.unit(), test.unit()
    unknown = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if unknown:
        raise InvalidInput(
            f"The test classes {unknown[:5]} have no training photo. Leave them out of the test."
        )
    few = few_shot_rows(train.labels, seed=seed, shots=shots)
    subset = Labelled(features=train.features[few], labels=train.labels[few])
    guesses: dict[str, np.ndarray] = {
        **{f"knn_{k}": found for k, found in nearest_classes(train, test.features).items()},
        "few_shot": linear_classes(subset, test.features, seed=seed),
        "long_tail": linear_classes(train, test.features, seed=seed),
    }
    found: dict[str, Any] = {}
    for name, guess in guesses.items():
        found |= _accuracies(name, guess, train.labels, test.labels, bounds)
    shots = len(few) // len(set(train.labels.tolist()))
    return found | {"shots": shots, "class_separation": class_separation(test)}


def nearest_classes(
    train: Labelled, features: Float[np.ndarray, "m d"], ks: tuple[int, ...] = NEIGHBOURS
) -> dict[int, Int[np.ndarray, " m"]]:
    """For each k the class that most of the k nearest training rows have, by cosine.

    Rows are of unit length. Where classes have equally many, the one of the nearer row wins; a k
    above the number of training rows takes all.
    """
    found: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    most = min(max(ks), len(train.labels))
    for start in range(0, len(features), _AT_ONCE):
        cosines = features[start : start + _AT_ONCE] @ train.features.T
        near = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        order = np.argsort(-np.take_along_axis(cosines, near, 1), axis=1, kind="stable")
        classes = train.labels[np.take_along_axis(near, order, 1)]
        for k in ks:
            found[k].append(_most_frequent(classes[:, :k]))
    return {k: np.concatenate(parts) for k, parts in found.items()}


def _most_frequent(classes: Int[np.ndarray, "m k"]) -> Int[np.ndarray, " m"]:
    """Per row; the first of equally frequent ones."""
    votes = (classes[:, :, None] == classes[:, None, :]).sum(2)
    return classes[np.arange(len(classes)), votes.argmax(1)]


def linear_classes(
    train: Labelled, features: Float[np.ndarray, "m d"], *, seed: int = 0
) -> Int[np.ndarray, " m"]:
    """What a linear support vector machine (C = 1, one against the rest) says."""
    if len(set(train.labels.tolist())) == 1:
        return np.full(len(features), train.labels[0])
    machine = LinearSVC(random_state=seed, max_iter=2000)
    with warnings.catch_warnings():  # nearly optimal is good enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(train.features.astype(np.float64), train.labels)
    found: np.ndarray = machine.predict(features.astype(np.float64))
    return found


def per_class(guess: Int[np.ndarray, " m"], labels: Int[np.ndarray, " m"]) -> Mapping[int, float]:
    """Share of right guesses by class."""
    return {int(k): float((guess[labels == k] == k).mean()) for k in np.unique(labels)}


def class_separation(rows: Labelled) -> float:
    """R² = 1 − d_within / d_all, of unit rows; 1 where classes are points, 0 where all is one.

    Kornblith et al. 2021 (arXiv:2010.16402, eq. 11): d is 1 − cosine, d_within its mean over
    pairs of one class, then over classes; d_all its mean over pairs of two classes (a class with
    itself, too), then over all pairs of classes. NaN where all rows are one direction.
    """
    means = np.stack(
        [rows.features[rows.labels == k].mean(0, dtype=np.float64) for k in np.unique(rows.labels)]
    )
    within = 1 - (means**2).sum(1).mean()
    overall = 1 - (means.mean(0) ** 2).sum()
    return float(1 - within / overall) if overall > 1e-12 else float("nan")


def _accuracies(
    name: str, guess: np.ndarray, train_labels: np.ndarray, labels: np.ndarray,
    bounds: tuple[int, int] | None,
) -> dict[str, float | None]:  # fmt: skip
    """Mean over classes, and over those of head, mid and tail; None where there are none."""
    right = per_class(guess, labels)
    counts = [int((train_labels == k).sum()) for k in right]
    parts = head_mid_tail(counts, bounds)
    values = np.array(list(right.values()))
    found: dict[str, float | None] = {name: float(values.mean())}
    for place, part in enumerate(PARTS):
        chosen = values[parts == place]
        found[f"{name}_{part}"] = float(chosen.mean()) if len(chosen) else None
    return found
