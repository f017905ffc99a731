"""Train byte-pair merges in the file format that open_clip's SimpleTokenizer reads.

Algorithm: Sennrich et al. 2016 (arXiv:1508.07909); merges are counted incrementally, so that
30,000 words and 12,000 merges take about half a minute.
"""

import gzip
import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

Pair = tuple[str, str]
NUM_BYTE_TOKENS = 512  # 256 bytes, each also as the end of a word
NUM_SPECIAL_TOKENS = 2


def train_merges(counts: Mapping[str, float], num_merges: int) -> list[Pair]:
    """The ``num_merges`` most frequent merges, in order, of lower-case words and weights."""
    words = [[*word[:-1], word[-1] + "</w>"] for word in counts]
    weights = list(counts.values())
    totals: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, symbols in enumerate(words):
        for pair in zip(symbols, symbols[1:], strict=False):
            totals[pair] += weights[index]  # type: ignore[assignment]
            where[pair].add(index)
    heap = [(-weight, pair) for pair, weight in totals.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < num_merges:
        weight, pair = heapq.heappop(heap)
        # A stale entry: the pair's weight has changed since; its newer entry is in the heap.
        if pair not in totals or -weight != totals[pair]:
            continue
        merges.append(pair)
        for changed in _apply(pair, words, weights, totals, where):
            if totals[changed] > 0:
                heapq.heappush(heap, (-totals[changed], changed))
    return merges


def _apply(
    pair: Pair,
    words: list[list[str]],
    weights: list[float],
    totals: Counter[Pair],
    where: defaultdict[Pair, set[int]],
) -> set[Pair]:
    """Merge ``pair`` in every word that has it; returns the pairs whose weight changed."""
    changed: set[Pair] = set()
    for index in where.pop(pair):
        before = words[index]
        after = _merged(before, pair)
        for old in zip(before, before[1:], strict=False):
            totals[old] -= weights[index]  # type: ignore[assignment]
            changed.add(old)
        for new in zip(after, after[1:], strict=False):
            totals[new] += weights[index]  # type: ignore[assignment]
            where[new].add(index)
            changed.add(new)
        words[index] = after
    del totals[pair]
    changed.discard(pair)
    return changed


def _merged(symbols: list[str], pair: Pair) -> list[str]:
    out: list[str] = []
    position = 0
    while position < len(symbols):
        if tuple(symbols[position : position + 2]) == pair:
            out.append(symbols[position] + symbols[position + 1])
            position += 2
        else:
            out.append(symbols[position])
            position += 1
    return out


def write_merges(merges: list[Pair], path: Path) -> None:
    """Write the gzip that SimpleTokenizer reads; the same merges give the same bytes."""
    # No newline at the end: the reader would take the empty line for one more merge.
    text = "\n".join(["#version: dncbm-mini", *(f"{a} {b}" for a, b in merges)])
    path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
