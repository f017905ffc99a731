"""The nearest words, exactly, in bounded memory and at the speed of bfloat16 products.

Words and concepts are multiplied tile by tile in low precision, and each concept keeps a shortlist
of words. The shortlist is scored again in full. A bound on the rounding of the products proves
that no word outside of it can be among the best; a concept for which it does not is searched again
with a longer list in float32, at last with all words.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from dncbm.naming.words import BLOCK, WordRows
from dncbm.training.precision import native_bfloat16

_TILE = 512
"""Concepts multiplied at once: with a block of words 8 MB of bfloat16 products."""
_RESCORE = 64
"""Concepts scored at once: their candidates stay in the processor's cache."""
_HELD = 1 << 15
"""Words held in float32 while candidates are scored."""
_REACH = 16
"""Least words on a shortlist."""
_FOLD = 16
"""Words among which only the best is looked at first."""
_HALF_ULP = {torch.bfloat16: 2.0**-9, torch.float32: 2.0**-24}

Nearest = tuple[Float[Tensor, "m count"], Int64[Tensor, "m count"]]


def nearest_words(
    words: WordRows, queries: Float[Tensor, "m d"], count: int, *, products: str = "auto"
) -> Nearest:
    """Scores and positions of the `count` nearest words of each query, best first.

    Scores equal to 7 digits count as equal and go to the lower position. Memory: the queries,
    `count` or 32 words for each, and one tile; never (m, v).

    Args:
        words: v words of width d.
        queries: (m, d) float32 of length 1.
        count: at most v.
        products: `bfloat16`, `float32`, or `auto` for bfloat16 where the processor has it.
    """
    fast = products == "bfloat16" or (products == "auto" and native_bfloat16("cpu"))
    precision = torch.bfloat16 if fast else torch.float32
    reach = min(max(_REACH, count + count // 2), len(words))
    scores = torch.empty(len(queries), count)
    rows = torch.empty(len(queries), count, dtype=torch.int64)
    pending = torch.arange(len(queries))
    while len(pending):
        asked = queries[pending]
        shortlist = _shortlist(words, asked, reach, precision)
        scores[pending], rows[pending] = rescore(words, asked, shortlist.rows, count)
        proven = scores[pending, -1] > shortlist.ceiling
        pending = pending[~proven] if reach < len(words) else pending[:0]
        precision, reach = torch.float32, min(4 * reach, len(words))
    return scores, rows


class _Shortlist(NamedTuple):
    rows: Int64[Tensor, "m reach"]
    ceiling: Float[Tensor, "m"]
    """No word outside the list can have a score above."""


def _shortlist(words: WordRows, queries: Tensor, reach: int, precision: torch.dtype) -> _Shortlist:
    rounded = queries.to(precision)
    best = torch.full((len(queries), reach), -torch.inf)
    rows = torch.zeros(len(queries), reach, dtype=torch.int64)
    lost = 0.0
    for start, block in words.blocks(BLOCK):
        low = block.to(precision)
        lost = max(lost, float((block - low.float()).norm(dim=1).max()))
        for first in range(0, len(queries), _TILE):
            tile = slice(first, first + _TILE)
            _keep_best(best[tile], rows[tile], rounded[tile] @ low.T, start)
    error = (queries - rounded.float()).norm(dim=1) + lost
    return _Shortlist(rows, best[:, -1] + _rounding(error, best[:, -1], words.width, precision))


def _rounding(error: Tensor, score: Tensor, width: int, precision: torch.dtype) -> Tensor:
    """Most that a true score can exceed a computed one of at most `score`.

    By Cauchy and Schwarz the rounding of both factors costs `error` (their lost lengths, times a
    length of at most 1 + error); summing `width` products in float32 costs width units in the last
    place; and the stored result is rounded itself.
    """
    factors = error * (1.0 + error)
    summing = 2.0 * width * _HALF_ULP[torch.float32]
    return factors + summing + 2.0 * _HALF_ULP[precision] * score.abs()


def _keep_best(best: Tensor, rows: Tensor, products: Tensor, start: int) -> None:
    """Take the words of a tile (t, b) into the running lists (t, reach), in place."""
    reach, width = best.shape[1], products.shape[1]
    fold = _FOLD if width % _FOLD == 0 and width // _FOLD > reach else 1
    # The best `reach` words lie within the `reach` folds of the largest maxima.
    peaks = products.view(len(products), fold, width // fold).amax(dim=1)
    rising = torch.nonzero(peaks.amax(dim=1).float() > best[:, -1])[:, 0]
    if not len(rising):
        return
    folds = peaks[rising].topk(min(reach, peaks.shape[1]), dim=1).indices
    columns = (folds[:, None] + torch.arange(fold)[:, None] * (width // fold)).flatten(1)
    found = products.flatten()[columns + rising[:, None] * width].float()
    scores = torch.cat([best[rising], found], dim=1)
    places = torch.cat([rows[rising], columns + start], dim=1)
    best[rising], order = scores.topk(reach, dim=1)
    rows[rising] = places.gather(1, order)


def rescore(
    words: WordRows, queries: Float[Tensor, "m d"], rows: Int64[Tensor, "m r"], count: int
) -> Nearest:
    """The best `count` of each query's candidates by their true scores; -1 marks a gap."""
    # Equal to 7 digits means equal: a stable sort by score keeps the order by position.
    rows = rows.sort(dim=1).values
    scores = candidate_scores(words, queries, rows)
    order = scores.mul(1e7).round().argsort(dim=1, descending=True, stable=True)[:, :count]
    return scores.gather(1, order).float(), rows.gather(1, order)


def candidate_scores(
    words: WordRows, queries: Float[Tensor, "m d"], rows: Int64[Tensor, "m r"]
) -> Float64[Tensor, "m r"]:
    """The score of each query with each of its own candidates; -inf where the row is -1."""
    at_once = len(queries) if len(words) <= _HELD else max(_HELD // rows.shape[1], 1)
    scores = torch.empty(rows.shape, dtype=torch.float64)
    for first in range(0, len(queries), max(at_once, 1)):
        some = slice(first, first + at_once)
        used, places = torch.unique(rows[some].clamp(min=0), return_inverse=True)
        _score_candidates(words.take(used), queries[some], places, scores[some])
    return scores.masked_fill_(rows < 0, -torch.inf)


def _score_candidates(words: Tensor, queries: Tensor, places: Tensor, out: Tensor) -> None:
    for first in range(0, len(queries), _RESCORE):
        some = slice(first, first + _RESCORE)
        products = words[places[some]] * queries[some, None]
        torch.sum(products, dim=2, dtype=torch.float64, out=out[some])
