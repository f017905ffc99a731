"""Sums over the codes of many images, from which everything about drift is computed.

Nothing of a single image is kept. Two statistics over the same edges add up to those of all
their images, so threads and processes may each keep their own.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float64, Int64

from dncbm.errors import InvalidInput

BINS = 10
"""Bins of the codes above 0 of a concept; images without it are counted apart."""


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CodeStatistics:
    """Counts and sums per concept over `images` images."""

    edges: Float64[np.ndarray, "c edges"]
    """Ascending, between the bins; a code on an edge belongs to the bin above it."""
    images: int
    active: Int64[np.ndarray, " c"]
    """Images with a code above 0."""
    total: Float64[np.ndarray, " c"]
    """Sum of codes."""
    squares: Float64[np.ndarray, " c"]
    """Sum of squared codes."""
    histogram: Int64[np.ndarray, "c bins"]
    """Images per bin of codes above 0; a row sums to `active`."""

    @classmethod
    def empty(cls, edges: Float64[np.ndarray, "c edges"]) -> "CodeStatistics":
        """Of no image."""
        concepts, inner = edges.shape
        return cls(
            edges=edges,
            images=0,
            active=np.zeros(concepts, np.int64),
            total=np.zeros(concepts),
            squares=np.zeros(concepts),
            histogram=np.zeros((concepts, inner + 1), np.int64),
        )

    @classmethod
    def of(cls, codes: Any, edges: Float64[np.ndarray, "c edges"]) -> "CodeStatistics":
        """Of the rows of codes (n, c), an array or a scipy CSR table.

        Raises:
            InvalidInput: another number of concepts than of edges, or codes that are no numbers.
        """
        rows, concepts, values = _entries(codes)
        width, inner = edges.shape
        if codes.shape[1] != width:
            raise InvalidInput(f"Codes have {codes.shape[1]} concepts; the edges have {width}.")
        if not np.isfinite(values).all():
            raise InvalidInput("The codes hold NaN or infinity; encode the images again.")
        bins = (values[:, None] >= edges[concepts]).sum(axis=1)
        flat = np.bincount(concepts * (inner + 1) + bins, minlength=width * (inner + 1))
        return cls(
            edges=edges,
            images=rows,
            active=np.bincount(concepts, minlength=width).astype(np.int64),
            total=np.bincount(concepts, weights=values, minlength=width).astype(float),
            squares=np.bincount(concepts, weights=values * values, minlength=width).astype(float),
            histogram=flat.reshape(width, inner + 1).astype(np.int64),
        )

    def __add__(self, other: "CodeStatistics") -> "CodeStatistics":
        """Of the images of both.

        Raises:
            InvalidInput: they were counted over different edges.
        """
        if not np.array_equal(self.edges, other.edges):
            raise InvalidInput("Statistics over different edges cannot be added up.")
        return CodeStatistics(
            edges=self.edges,
            images=self.images + other.images,
            active=self.active + other.active,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            histogram=self.histogram + other.histogram,
        )

    @property
    def density(self) -> Float64[np.ndarray, " c"]:
        """Share of images with the concept; 0 of no image."""
        return self.active / max(1, self.images)

    @property
    def mean(self) -> Float64[np.ndarray, " c"]:
        """Mean code over all images; 0 of no image."""
        return self.total / max(1, self.images)

    @property
    def deviation(self) -> Float64[np.ndarray, " c"]:
        """Standard deviation of the code over all images; 0 of no image."""
        variance = self.squares / max(1, self.images) - self.mean**2
        return np.sqrt(np.maximum(variance, 0.0))


def _entries(codes: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """Rows, and concept and value of each code above 0."""
    if hasattr(codes, "tocsr"):
        table = codes.tocsr()
        above = ~(table.data <= 0)  # NaN stays, to be refused
        return (
            table.shape[0],
            table.indices[above].astype(np.int64),
            table.data[above].astype(float),
        )
    dense = np.asarray(codes)
    rows, concepts = np.nonzero(~(dense <= 0))
    return len(dense), concepts, dense[rows, concepts].astype(float)


def decile_edges(codes: Any) -> Float64[np.ndarray, "c edges"]:
    """Per concept the inner deciles of its codes above 0; zeros where it never fires."""
    rows, concepts, values = _entries(codes)
    width = int(codes.shape[1])
    edges = np.zeros((width, BINS - 1))
    order = np.argsort(concepts, kind="stable")
    groups = np.split(values[order], np.cumsum(np.bincount(concepts, minlength=width))[:-1])
    shares = np.arange(1, BINS) / BINS
    for concept, group in enumerate(groups):
        if len(group):
            edges[concept] = np.quantile(group, shares)
    return edges


def even_edges(largest: Float64[np.ndarray, " c"]) -> Float64[np.ndarray, "c edges"]:
    """Edges at equal distances up to the largest code of each concept, where codes are gone."""
    bounded = np.nan_to_num(np.maximum(largest, 0.0), nan=0.0, posinf=0.0)
    return bounded[:, None] * (np.arange(1, BINS) / BINS)


def edges_mark(edges: Float64[np.ndarray, "c edges"]) -> str:
    """A short fingerprint: statistics of other edges are of another kind."""
    return hashlib.sha256(np.ascontiguousarray(edges, dtype="<f8").tobytes()).hexdigest()[:16]
