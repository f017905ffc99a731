"""Which names to trust: calibrated threshold, groups of one name, near-duplicate words."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput
from dncbm.naming.exact import nearest_words
from dncbm.naming.words import WordRows
from dncbm.types import ConceptName

NEAR_DUPLICATE = 0.98
_BLOCK = 1024
_WIDE = 8192


def null_directions(
    directions: Float[Tensor, "c d"], count: int, *, seed: int
) -> Float[Tensor, "count d"]:
    """Meaningless unit directions with the mean and covariance of a dictionary.

    A Gaussian with the dictionary's first two moments: as near to the words on average as
    the dictionary, but no row stands for anything.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = directions.detach().to("cpu", torch.float32)
    mean = rows.mean(dim=0)
    drawn = mean.repeat(count, 1)
    for part in (rows - mean).split(_BLOCK):
        # Weighted sums of centred rows have their covariance, whatever its rank.
        weights = torch.randn(count, len(part), generator=generator)
        drawn += weights @ part / max(len(rows) - 1, 1) ** 0.5
    return functional.normalize(drawn, dim=1)


def calibrated_threshold(
    directions: Float[Tensor, "c d"],
    words: WordRows,
    *,
    false_name_rate: float,
    count: int = 2000,
    seed: int = 0,
) -> float:
    """The score that a share `false_name_rate` of meaningless directions reaches by chance.

    Raises:
        InvalidInput: the rate is not between 0 and 1.
    """
    if not 0.0 < false_name_rate < 1.0:
        raise InvalidInput(f"false_name_rate is {false_name_rate}; it must lie between 0 and 1.")
    # Meaningless directions are near to no list: only the exact search finds their best word.
    scores, _ = nearest_words(words, null_directions(directions, count, seed=seed), 1)
    return float(np.quantile(scores[:, 0].double().numpy(), 1.0 - false_name_rate))


def near_duplicates(
    embeddings: Float[Tensor, "v d"], *, cosine: float = NEAR_DUPLICATE
) -> list[tuple[int, int, float]]:
    """Pairs of vocabulary rows that the encoder cannot tell apart: (row, later row, cosine).

    Compared in blocks; the closest pairs come first. Rows must have unit norm.
    """
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(embeddings), _BLOCK):
        for other in range(start, len(embeddings), _WIDE):
            products = embeddings[start : start + _BLOCK] @ embeddings[other : other + _WIDE].T
            near = torch.nonzero(torch.triu(products, diagonal=start - other + 1) > cosine)
            pairs.extend((start + i, other + j, float(products[i, j])) for i, j in near.tolist())
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def naming_metrics(
    names: Sequence[ConceptName], density: Float[np.ndarray, "c"] | None = None
) -> dict[str, Any]:
    """What a dictionary's names are worth, as JSON-serialisable values.

    Args:
        names: one per concept.
        density: share of images on which each concept is active. Those that never fire do
            not count, and `weighted_score` weights by it.

    Returns:
        num_concepts; and over those that fire: named_fraction, unique_names, shared_fraction
        (named concepts whose name another one has too), unique_groups and grouped_fraction (the
        same for groups, which leave out what tells names apart), unnamed_fraction and
        blocked_fraction (rejected), mean_score, mean_margin, mean_named_score, weighted_score.
    """
    total = len(names)
    if density is not None and bool(np.any(density > 0)):
        names = [name for name, share in zip(names, density, strict=True) if share > 0]
        density = density[density > 0]
    if not names:
        raise InvalidInput("There are no concepts to measure. Give at least one name.")
    named = [name for name in names if name.status == "named"]
    scores = np.array([name.score for name in names])
    metrics: dict[str, Any] = {
        "num_concepts": total,
        "named_fraction": len(named) / len(names),
        "unnamed_fraction": _share(names, "unnamed"),
        "blocked_fraction": _share(names, "blocked"),
        "unique_names": len({name.name for name in named}),
        "shared_fraction": _shared([name.name for name in named]),
        "unique_groups": len({name.group for name in named}),
        "grouped_fraction": _shared([name.group for name in named]),
        "mean_score": float(scores.mean()),
        "mean_named_score": float(np.mean([n.score for n in named])) if named else 0.0,
        "mean_margin": float(np.mean([name.margin for name in names])),
    }
    if density is not None and float(np.sum(density)) > 0:
        metrics["weighted_score"] = float(np.average(scores, weights=density))
    return metrics


def _share(names: Sequence[ConceptName], status: str) -> float:
    return sum(name.status == status for name in names) / len(names)


def _shared(keys: Sequence[Hashable]) -> float:
    """Share of the keys that occur more than once."""
    counts = Counter(keys)
    return sum(count for count in counts.values() if count > 1) / max(len(keys), 1)
