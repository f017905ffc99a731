"""What the codes of many images tell: how strong a concept is, and which images are alike."""

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

BINS = 20


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CodeHistograms:
    """Per concept its codes above 0 in `BINS` equal steps from 0 to the largest."""

    largest: Float[np.ndarray, " c"]
    counts: Int[np.ndarray, "c bins"]
    images: int

    def edges(self, concept: int) -> Float[np.ndarray, " edges"]:
        """Bounds of the steps, one more than there are; step i holds codes in (i, i + 1]."""
        return np.linspace(0.0, float(self.largest[concept]), BINS + 1)

    def inactive(self, concept: int) -> int:
        """Images in which the concept is not active."""
        return self.images - int(self.counts[concept].sum())


def code_histograms(codes: sp.csr_matrix) -> CodeHistograms:
    """Histograms of all concepts from codes (n, c) >= 0 in one pass over those above 0."""
    count = codes.shape[1]
    largest = np.zeros(count, codes.data.dtype)
    np.maximum.at(largest, codes.indices, codes.data)
    kept = codes.data > 0
    concepts = codes.indices[kept]
    shares = codes.data[kept] / largest[concepts]
    steps = np.clip(np.ceil(shares * BINS).astype(np.int64) - 1, 0, BINS - 1)
    flat = np.bincount(concepts.astype(np.int64) * BINS + steps, minlength=count * BINS)
    return CodeHistograms(
        largest=largest.astype(np.float64), counts=flat.reshape(count, BINS), images=codes.shape[0]
    )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Alike:
    """An image that shares concepts with another."""

    row: int
    """Embedding row."""
    similarity: float
    """Cosine of the two images' codes, in (0, 1]."""
    shared: tuple[int, ...]
    """The concepts that add most to it, most first."""


class CodeIndex:
    """Images by their codes; finds those alike by exact comparison.

    Args:
        codes: (n, c), >= 0.
        rows: (n,) embedding row of each.
    """

    def __init__(self, codes: sp.csr_matrix, rows: Int[np.ndarray, " n"]) -> None:
        self._codes = codes
        self._rows = rows
        self._lengths = np.sqrt(codes.astype(np.float64).power(2).sum(axis=1)).A1

    def nearest(self, codes: Float[np.ndarray, " c"], limit: int, shared: int = 5) -> list[Alike]:
        """The `limit` images whose codes have the largest cosine with `codes`, best first.

        Images that share no concept are left out; ties go to the one given first.
        """
        wanted = codes.astype(np.float64)
        length = float(np.linalg.norm(wanted))
        products = self._codes @ wanted
        cosines = np.zeros(len(products))
        np.divide(products, self._lengths * length, out=cosines, where=products > 0)
        order = np.argsort(-cosines, kind="stable")[:limit].tolist()
        found = (place for place in order if cosines[place] > 0)
        return [self._alike(place, cosines, wanted, shared) for place in found]

    def _alike(self, place: int, cosines: np.ndarray, wanted: np.ndarray, shared: int) -> Alike:
        part = slice(self._codes.indptr[place], self._codes.indptr[place + 1])
        concepts = self._codes.indices[part]
        added = self._codes.data[part] * wanted[concepts]
        order = np.argsort(-added, kind="stable")[:shared]
        return Alike(
            row=int(self._rows[place]),
            similarity=min(float(cosines[place]), 1.0),
            shared=tuple(int(concepts[i]) for i in order if added[i] > 0),
        )
