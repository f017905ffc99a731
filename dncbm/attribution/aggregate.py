"""AggAtt: mean maps from the best to the worst localised (Rao et al. 2022, section 3.5).

Maps for one and the same cell are sorted by their score and put into bins by percentile. The mean
map of a bin shows what a score means. All bins of a method share one normaliser, so that they can
be compared in strength.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput

EDGES = (0, 2, 5, 50, 95, 98, 100)
"""Percentiles between the bins, best maps first."""
CLAMPED = 0.005
"""Largest share of the values of all bins, which are shown as if they were the next."""


class AggAtt(NamedTuple):
    """Mean maps of one method at one layer."""

    maps: Float[Tensor, "bins h w"]
    """Mean of the positive parts of each bin; 0 where a bin has no maps."""
    counts: tuple[int, ...]
    """Maps of each bin; they sum to the number of all."""
    scores: tuple[tuple[float, float] | None, ...]
    """Lowest and highest score of each bin."""
    normaliser: float
    """What all bins are divided by for drawing, with values above it cut."""

    def shown(self) -> Float[Tensor, "bins h w"]:
        """The mean maps in [0, 1], on one scale."""
        return (self.maps / self.normaliser).clamp(0, 1) if self.normaliser else self.maps


class MapStore:
    """Scores and small maps of a method, from which `aggregate` makes mean maps.

    A map is kept at most `size` pixels high and wide, in half precision and relative to its own
    maximum with that beside it: 2,000 maps of 56 x 56 take 13 MB.

    Args:
        size: largest height and width; larger maps are averaged down.
    """

    def __init__(self, size: int = 56) -> None:
        self._size = size
        self._maps: list[Tensor] = []
        self._peaks: list[Tensor] = []
        self._scores: list[np.ndarray] = []
        self._inside: list[np.ndarray] = []

    def add(
        self,
        maps: Float[Tensor, "m h w"],
        scores: Float[Tensor, "m"],
        inside: Float[Tensor, "m"],
    ) -> None:
        """Keep some maps.

        Args:
            maps: attributions for the same cell; their positive parts are kept.
            scores: their mass ratios.
            inside: positive mass in the cell, which comes before in equal scores.
        """
        positive = maps.detach().float().cpu().clamp_min(0)
        height, width = (min(self._size, length) for length in positive.shape[-2:])
        small = functional.adaptive_avg_pool2d(positive[:, None], (height, width))[:, 0]
        peaks = small.amax(dim=(-2, -1))
        self._maps.append((small / peaks.clamp_min(1e-30)[:, None, None]).half())
        self._peaks.append(peaks)
        self._scores.append(scores.double().cpu().numpy())
        self._inside.append(inside.double().cpu().numpy())

    def aggregate(self, edges: Sequence[int] = EDGES) -> AggAtt:
        """The mean maps of all that was added.

        Raises:
            InvalidInput: nothing was added.
        """
        if not self._maps:
            raise InvalidInput("There are no maps to aggregate; add some.")
        maps, peaks = torch.cat(self._maps), torch.cat(self._peaks)
        scores = np.concatenate(self._scores)
        order = ranked(scores, np.concatenate(self._inside))
        places = bin_edges(len(order), edges)
        means = torch.zeros(len(places) - 1, *maps.shape[1:], dtype=torch.float64)
        ranges: list[tuple[float, float] | None] = []
        for place, (start, end) in enumerate(zip(places, places[1:], strict=False)):
            mine = order[start:end]
            ranges.append(None)
            if len(mine):
                for row in mine:
                    means[place] += maps[row].double() * peaks[row].double()
                means[place] /= len(mine)
                ranges[-1] = (float(scores[mine].min()), float(scores[mine].max()))
        counts = tuple(int(n) for n in np.diff(places))
        filled = means[torch.tensor(counts) > 0]
        return AggAtt(means.float(), counts, tuple(ranges), _normaliser(filled))


def ranked(scores: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Places from the highest score to the lowest; of equal ones, the larger mass inside first.

    NaN, the score of a map that is undefined, comes last.
    """
    known = np.where(np.isnan(scores), -np.inf, scores)
    return np.lexsort((-inside, -known))


def bin_edges(count: int, edges: Sequence[int] = EDGES) -> list[int]:
    """Where bins begin and end among `count` ranked maps; each map is in one bin.

    Whole numbers are rounded, not shares of floats, whose sums lose a map here and there.

    Raises:
        InvalidInput: edges that do not rise from 0 to 100.
    """
    rising = all(low < high for low, high in zip(edges, edges[1:], strict=False))
    if not rising or edges[0] != 0 or edges[-1] != 100:
        raise InvalidInput(f"Bin edges are {tuple(edges)}; the rule is percentiles from 0 to 100.")
    return [(edge * count + 50) // 100 for edge in edges]


def _normaliser(means: Tensor) -> float:
    """The value that only `CLAMPED` of all values exceed, or the largest if that is 0."""
    if not means.numel():
        return 0.0
    found = float(torch.quantile(means.flatten(), 1 - CLAMPED))
    return found or float(means.max())
