"""Embeddings with a known dictionary, and how much of it a found dictionary recovers.

Rows are sparse non-negative combinations of planted unit directions plus noise. How often a
direction takes part falls with its rank like `rank ** -skew`, as word frequencies do, so a
method must find rare directions beside common ones.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput

RECOVERED = 0.9
"""Cosine above which a planted direction counts as recovered."""
_CHUNK = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """One-to-one assignment of found to planted directions with the largest summed cosine."""

    found: np.ndarray
    """Rows of the found dictionary, one per matched pair."""
    truth: np.ndarray
    """Rows of the planted dictionary, in the same order."""
    cosines: np.ndarray
    """Cosine of each pair."""
    mean_cosine: float
    """Mean over all planted directions; an unmatched one counts 0."""
    recovered_fraction: float
    """Share of planted directions whose matched cosine exceeds 0.9."""
    mean_max_cosine: float
    """Mean over planted directions of the best cosine with any found one (not one-to-one)."""


def planted_dictionary(num_concepts: int, embed_dim: int, *, seed: int) -> Float[Tensor, "c d"]:
    """Random unit directions."""
    stream = np.random.default_rng([seed, 0])
    drawn = stream.standard_normal((num_concepts, embed_dim), dtype=np.float32)
    return functional.normalize(torch.from_numpy(drawn), dim=-1)


def planted_embeddings(
    dictionary: Float[Tensor, "c d"],
    num_rows: int,
    *,
    active: int | tuple[int, int],
    noise: float,
    seed: int,
    skew: float = 0.5,
    offset: float = 0.0,
) -> tuple[Float[Tensor, "n d"], sp.csr_matrix]:
    """Embeddings (n, d) and the codes (n, c) that made them.

    Args:
        dictionary: unit directions.
        num_rows: n.
        active: directions per row, or the inclusive range they are drawn from. A direction
            drawn twice in a row counts once.
        noise: length of the isotropic Gaussian noise relative to the signal's (root mean
            squares over rows).
        seed: of everything drawn here.
        skew: 0 makes all directions equally frequent.
        offset: length of one constant vector added to all rows, relative to the signal's;
            image encoders have such a cone.

    Raises:
        InvalidInput: no rows, or more active directions than there are.
    """
    low, high = (active, active) if isinstance(active, int) else active
    concepts, width = dictionary.shape
    if num_rows < 1 or not 1 <= low <= high <= concepts:
        raise InvalidInput(
            f"Planted embeddings need rows >= 1 and 1 <= active <= {concepts} concepts, got "
            f"{num_rows} rows and active {low} to {high}."
        )
    stream = np.random.default_rng([seed, 1])
    codes = _planted_codes(stream, num_rows, concepts, (low, high), skew)
    embeddings = torch.from_numpy(np.asarray(codes @ dictionary.numpy(), dtype=np.float32))
    length = float(embeddings.square().sum(dim=-1).mean().sqrt())
    constant = functional.normalize(
        torch.from_numpy(stream.standard_normal(width, dtype=np.float32)), dim=0
    )
    for start in range(0, num_rows, _CHUNK):
        part = embeddings[start : start + _CHUNK]
        drawn = stream.standard_normal(tuple(part.shape), dtype=np.float32)
        part += torch.from_numpy(drawn) * (noise * length / width**0.5)
        part += constant * (offset * length)
    return embeddings, codes


def match_dictionaries(found: Float[Tensor, "m e"], truth: Float[Tensor, "c d"]) -> Matching:
    """How much of `truth` is in `found` (both of one width), by Hungarian assignment on cosines.

    Raises:
        InvalidInput: the widths differ.
    """
    if found.shape[1] != truth.shape[1]:
        raise InvalidInput(
            f"Dictionaries of widths {found.shape[1]} and {truth.shape[1]} cannot be matched."
        )
    wide = [functional.normalize(each.detach().cpu().float(), dim=-1) for each in (found, truth)]
    cosines = (wide[0] @ wide[1].T).numpy()
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    matched = cosines[rows, columns]
    return Matching(
        found=rows,
        truth=columns,
        cosines=matched,
        mean_cosine=float(matched.sum() / len(truth)),
        recovered_fraction=float((matched > RECOVERED).sum() / len(truth)),
        mean_max_cosine=float(cosines.max(axis=0).mean()),
    )


def _planted_codes(
    stream: np.random.Generator, rows: int, concepts: int, active: tuple[int, int], skew: float
) -> sp.csr_matrix:
    """Sparse codes: uniform strengths in [0.5, 1.5) at positions drawn by frequency."""
    frequency = np.arange(1, concepts + 1, dtype=np.float64) ** -skew
    edges = np.cumsum(frequency / frequency.sum())
    counts = stream.integers(active[0], active[1] + 1, size=rows)
    owners = np.repeat(np.arange(rows), counts)
    columns = np.searchsorted(edges, stream.random(len(owners)), side="right")
    columns = np.minimum(columns, concepts - 1)
    pairs = np.unique(owners * concepts + columns)
    strengths = 0.5 + stream.random(len(pairs), dtype=np.float32)
    positions = np.divmod(pairs, concepts)
    return sp.csr_matrix((strengths, positions), shape=(rows, concepts))
