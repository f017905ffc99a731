"""What dictionaries say without any data: how alike their rows are, and runs to each other."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.data.planted import match_dictionaries
from dncbm.errors import InvalidInput

_TILE = 2048
"""Rows of a dictionary compared at once."""
MATCHED_UP_TO = 8192
"""Concepts up to which dictionaries are matched one to one: the cost grows like their cube."""


class Coherence(NamedTuple):
    """Absolute cosine of two different rows of a dictionary."""

    largest: float
    mean: float


@torch.no_grad()
def coherence(dictionary: Float[Tensor, "c d"]) -> Coherence:
    """Largest and mean |cosine| over all pairs of rows; 0 for a dictionary of one row.

    Time grows with c^2 d; memory holds tiles of the c x c cosines, never all of them.
    """
    unit = functional.normalize(dictionary, dim=-1)
    count, largest, total = len(unit), 0.0, 0.0
    for i in range(0, count, _TILE):
        for j in range(i, count, _TILE):
            cosines = (unit[i : i + _TILE] @ unit[j : j + _TILE].T).abs()
            if i == j:
                cosines.fill_diagonal_(0)
            largest = max(largest, float(cosines.max()))
            total += (1 if i == j else 2) * float(cosines.sum(dtype=torch.float64))
    return Coherence(largest, total / max(1, count * (count - 1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """Likeness of dictionaries that differ in their seeds only, averaged over all pairs of them."""

    seeds: int
    matched_cosine: float | None = None
    """Mean cosine under the best one-to-one (Hungarian) matching; None for large dictionaries."""
    matched_cosine_lowest: float | None = None
    """Of the two dictionaries that agree least."""
    matched_fraction: float | None = None
    """Share of concepts whose partner's cosine exceeds 0.9."""
    nearest_cosine: float
    """Mean over concepts of the largest cosine with any concept of the other run, both ways.
    Several concepts may share a partner, so it is at least as large as `matched_cosine`."""
    chance: float
    """`matched_cosine` (`nearest_cosine` for large ones) with random directions that have the
    dictionary's own second moments: what agreeing on the space alone gives."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for manifests."""
        return asdict(self)


@torch.no_grad()
def stability(
    dictionaries: Sequence[Float[Tensor, "c d"]], *, matched_up_to: int = MATCHED_UP_TO
) -> Stability:
    """How much of a dictionary comes back with other seeds.

    The mean matched cosine is the stability of the archetypal SAE paper (Fel et al. 2025, arXiv
    2502.12892) and of Paulo and Belrose 2025 (arXiv 2501.16615). It says nothing where runs share
    their start: give dictionaries whose initial directions were drawn independently.

    Args:
        dictionaries: of one shape; rows of any length.
        matched_up_to: dictionaries with more rows are not matched one to one.

    Raises:
        InvalidInput: fewer than two dictionaries, or different shapes.
    """
    shapes = {tuple(dictionary.shape) for dictionary in dictionaries}
    if len(dictionaries) < 2 or len(shapes) > 1:
        raise InvalidInput(
            f"Stability got {len(dictionaries)} dictionaries of shapes {sorted(shapes)}; give at "
            "least two of one shape."
        )
    units = [functional.normalize(each.detach().cpu().float(), dim=-1) for each in dictionaries]
    pairs = list(itertools.combinations(units, 2))
    random = _random_like(units[0])
    nearest = statistics.fmean(nearest_cosine(*way) for pair in pairs for way in (pair, pair[::-1]))
    if len(units[0]) > matched_up_to:
        chance = nearest_cosine(random, units[0])
        return Stability(seeds=len(units), nearest_cosine=nearest, chance=chance)
    matches = [match_dictionaries(*pair) for pair in pairs]
    cosines = [match.mean_cosine for match in matches]
    return Stability(
        seeds=len(units),
        matched_cosine=statistics.fmean(cosines),
        matched_cosine_lowest=min(cosines),
        matched_fraction=statistics.fmean(match.recovered_fraction for match in matches),
        nearest_cosine=nearest,
        chance=match_dictionaries(random, units[0]).mean_cosine,
    )


def nearest_cosine(found: Float[Tensor, "m d"], wanted: Float[Tensor, "c d"]) -> float:
    """Mean over `wanted` of the largest cosine with a row of `found`, tile by tile."""
    found, wanted = (functional.normalize(each, dim=-1) for each in (found, wanted))
    total = 0.0
    for i in range(0, len(wanted), _TILE):
        part = wanted[i : i + _TILE]
        best = part.new_full((len(part),), -1.0)
        for j in range(0, len(found), _TILE):
            best = torch.maximum(best, (part @ found[j : j + _TILE].T).amax(dim=1))
        total += float(best.sum(dtype=torch.float64))
    return total / len(wanted)


def _random_like(unit: Float[Tensor, "c d"]) -> Float[Tensor, "c d"]:
    """Random directions as spread over the space as the given ones."""
    stream = torch.Generator().manual_seed(0)
    moments, axes = torch.linalg.eigh(unit.T @ unit)
    drawn = torch.randn(unit.shape, generator=stream) * moments.clamp(min=0).sqrt()
    return functional.normalize(drawn @ axes.T, dim=-1)
