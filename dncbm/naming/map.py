"""Concepts on a plane: directions that point alike lie together."""

import io
import os
import sys
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

MOST_FOR_TSNE = 10_000
"""More concepts than this are laid out by PCA alone, whose cost does not matter."""
_FEWEST_FOR_TSNE = 8
_COMPONENTS = 50
_PERPLEXITY = 30.0
_STEPS = 500


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConceptMap:
    """A place for every concept."""

    method: str
    """`pca+tsne` or `pca`."""
    places: Float[np.ndarray, "c 2"]
    """Centred; the larger of the two extents is 2, so that every place is in [-1, 1]."""


def concept_map(directions: Float[np.ndarray, "c d"], *, seed: int = 0) -> ConceptMap:
    """Lay out unit-norm directions on a plane; the same directions give the same map.

    t-SNE (van der Maaten and Hinton 2008) of the first 50 principal components, begun from the
    first two; for very many concepts, or fewer than 8, these two themselves. On one core 1,000
    concepts take 3 s and 8,000 most of a minute.
    """
    count = len(directions)
    if not _FEWEST_FOR_TSNE <= count <= MOST_FOR_TSNE:
        return rough_map(directions)
    from sklearn.decomposition import PCA  # takes longer to import than a rough map to compute
    from sklearn.manifold import TSNE

    wanted = min(_COMPONENTS, *directions.shape)
    with threadpool_limits(1):  # sums of several threads depend on which one is first
        parts = PCA(wanted, svd_solver="full").fit_transform(directions.astype(np.float64))
        layout = TSNE(
            init="pca",
            perplexity=min(_PERPLEXITY, (count - 1) / 3),
            max_iter=_STEPS,
            random_state=seed,
            n_jobs=1,
        ).fit_transform(parts)
    return ConceptMap(method="pca+tsne", places=_scaled(layout))


def rough_map(directions: Float[np.ndarray, "c d"]) -> ConceptMap:
    """The first two principal components: 8,000 concepts take a tenth of a second."""
    if len(directions) < 2:
        return ConceptMap(method="pca", places=np.zeros((len(directions), 2)))
    centred = directions.astype(np.float64) - directions.mean(axis=0, dtype=np.float64)
    axes = np.linalg.eigh(centred.T @ centred).eigenvectors[:, :-3:-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    parts = centred @ (axes * np.sign(largest))  # either sign is an axis
    return ConceptMap(method="pca", places=_scaled(_two(parts)))


def _two(parts: np.ndarray) -> np.ndarray:
    """The first two columns, zeros where there are fewer."""
    return np.pad(parts, ((0, 0), (0, max(0, 2 - parts.shape[1]))))[:, :2]


def _scaled(places: np.ndarray) -> np.ndarray:
    low, high = places.min(axis=0), places.max(axis=0)
    extent = float((high - low).max()) or 1.0
    return (places - (low + high) / 2) * (2 / extent)


def main() -> None:
    """Lay out the directions on standard input, places to standard output, both as `.npy`."""
    if hasattr(os, "nice"):
        os.nice(10)  # nobody waits for it: a rough map is shown
    given, made = io.BytesIO(sys.stdin.buffer.read()), io.BytesIO()  # numpy wants to seek
    found = concept_map(np.load(given, allow_pickle=False))
    np.save(made, found.places, allow_pickle=False)
    sys.stdout.buffer.write(made.getvalue())


if __name__ == "__main__":
    main()
