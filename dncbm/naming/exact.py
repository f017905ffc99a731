"""The nearest words, exactly, in bounded memory and at the speed of bfloat16 products.

Words and concepts are multiplied tile by tile in low precision, and each concept keeps a shortlist
of words. The shortlist is scored again in full. A bound on the rounding of the products proves
that no word outside of it can be among the best; a concept for which it does not is searched again
with a longer list, then with longer ones in float32, at last with all words.
"""

from collections.abc import Callable, Iterator
from itertools import chain, repeat
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
_DENSE = 1 << 17
"""Words from which on so many are alike that a shortlist is twice as long."""
_FOLD = 16
"""Words among which only the best is looked at first."""
_SHAPES = 64
_HALF_ULP = {torch.bfloat16: 2.0**-9, torch.float32: 2.0**-24}

Nearest = tuple[Float[Tensor, "m count"], Int64[Tensor, "m count"]]


def fast_products() -> torch.dtype:
    """bfloat16 where the processor has it, else float32."""
    return torch.bfloat16 if native_bfloat16("cpu") else torch.float32


class Part(NamedTuple):
    """Some words, and who is compared with them."""

    places: Int64[Tensor, "b"]
    """Positions of the words."""
    rows: Float[Tensor, "b d"]
    asking: Int64[Tensor, "m"]
    """Positions of the queries."""


Parts = Callable[[Float[Tensor, "m d"]], Iterator[Part]]
"""The words to compare with some queries, part by part; no word twice for a query."""


def all_words(words: WordRows) -> Parts:
    """Every word for every query."""

    def parts(queries: Tensor) -> Iterator[Part]:
        everyone = torch.arange(len(queries))
        for start, block in words.blocks(BLOCK):
            yield Part(torch.arange(start, start + len(block)), block, everyone)

    return parts


def nearest_words(
    words: WordRows,
    queries: Float[Tensor, "m d"],
    count: int,
    *,
    products: str = "auto",
    parts: Parts | None = None,
) -> Nearest:
    """Scores and positions of the `count` nearest words of each query, best first.

    Scores equal to 7 digits count as equal and go to the lower position. Memory: the queries,
    16 words for each or `count` three times, and one tile; never (m, v).

    Args:
        words: v words of width d.
        queries: (m, d) float32 of length 1.
        count: at most v.
        products: `bfloat16`, `float32`, or `auto` for bfloat16 where the processor has it.
        parts: words to look at for given queries (all); -1 marks a gap where they are fewer than
            `count`.
    """
    parts = parts or all_words(words)
    scores = torch.empty(len(queries), count)
    rows = torch.empty(len(queries), count, dtype=torch.int64)
    pending = torch.arange(len(queries))
    for precision, reach in _rounds(count, len(words), products):
        asked = queries[pending]
        shortlist = _shortlist(parts(asked), asked, reach, precision)
        scores[pending], rows[pending] = rescore(words, asked, shortlist.rows, count)
        missing = shortlist.ceiling > -torch.inf
        pending = pending[missing & (scores[pending, -1] <= shortlist.ceiling)]
        if not len(pending):
            break
    return scores, rows


def _rounds(count: int, words: int, products: str) -> Iterator[tuple[torch.dtype, int]]:
    """Precision and length of the shortlist, until it holds all words."""
    low = fast_products() if products == "auto" else getattr(torch, products)
    precisions = chain(repeat(low, 2), repeat(torch.float32))
    reach = max(_REACH, count + count // 2) * (1 if words < _DENSE else 2)
    while reach < words:
        yield next(precisions), reach
        reach *= 4
    yield next(precisions), words


class _Best(NamedTuple):
    """The best words of each query so far."""

    scores: Float[Tensor, "m reach"]
    rows: Int64[Tensor, "m reach"]
    floor: Float[Tensor, "m"]
    """The last score, once more: side by side they are read faster."""


class _Shortlist(NamedTuple):
    rows: Int64[Tensor, "m reach"]
    ceiling: Float[Tensor, "m"]
    """No word outside the list can have a score above; -inf where no word is outside."""


def _shortlist(
    parts: Iterator[Part], queries: Tensor, reach: int, precision: torch.dtype
) -> _Shortlist:
    rounded = queries.to(precision)
    scores = torch.full((len(queries), reach), -torch.inf)
    best = _Best(scores, torch.full_like(scores, -1, dtype=torch.int64), scores[:, -1].clone())
    lost = 0.0
    for places, block, asking in parts:
        low = block.to(precision)
        lost = max(lost, float((block - low.float()).norm(dim=1).max()))
        low, places = _whole(low, 0), _whole(places, -1)
        for tile in asking.split(_TILE):
            products = (rounded[_whole(tile, 0)] @ low.T)[: len(tile)]
            products[:, len(block) :] = -torch.inf
            _keep_best(best, tile, products, places)
    error = (queries - rounded.float()).norm(dim=1) + lost
    ceiling = best.floor + _rounding(error, best.floor, queries.shape[1], precision)
    return _Shortlist(best.rows, ceiling.masked_fill(best.rows[:, -1] < 0, -torch.inf))


def _whole(rows: Tensor, filler: int) -> Tensor:
    """Rows added up to a multiple of 64: for each new shape of a product oneDNN keeps 0.6 MB."""
    missing = -len(rows) % _SHAPES
    return torch.cat([rows, rows.new_full((missing, *rows.shape[1:]), filler)]) if missing else rows


def _rounding(error: Tensor, score: Tensor, width: int, precision: torch.dtype) -> Tensor:
    """Most that a true score can exceed a computed one of at most `score`.

    By Cauchy and Schwarz the rounding of both factors costs `error` (their lost lengths, times a
    length of at most 1 + error); summing `width` products in float32 costs width units in the last
    place; and the stored result is rounded itself.
    """
    factors = error * (1.0 + error)
    summing = 2.0 * width * _HALF_ULP[torch.float32]
    return factors + summing + 2.0 * _HALF_ULP[precision] * score.abs()


def _keep_best(best: _Best, asking: Tensor, products: Tensor, at: Tensor) -> None:
    """Take a tile (t, b) of the queries `asking` and the words `at` into their lists, in place."""
    reach, width = best.rows.shape[1], products.shape[1]
    fold = _FOLD if width % _FOLD == 0 and width // _FOLD > reach else 1
    # The best `reach` words lie within the `reach` folds of the largest maxima.
    peaks = products.view(-1, fold, width // fold).amax(dim=1) if fold > 1 else products
    rising = torch.nonzero(peaks.amax(dim=1).float() > best.floor[asking])[:, 0]
    if not len(rising):
        return
    folds = peaks[rising].topk(min(reach, peaks.shape[1]), dim=1).indices
    columns = (folds[:, None] + torch.arange(fold)[:, None] * (width // fold)).flatten(1)
    found = products.flatten()[columns + rising[:, None] * width].float()
    asking = asking[rising]
    scores = torch.cat([best.scores[asking], found], dim=1)
    places = torch.cat([best.rows[asking], at[columns]], dim=1)
    scores, order = scores.topk(reach, dim=1)
    best.scores[asking], best.floor[asking] = scores, scores[:, -1]
    best.rows[asking] = places.gather(1, order)


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
