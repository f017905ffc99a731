"""Most of the nearest words, for vocabularies whose full comparison takes too long.

Cluster pruning (Chierichetti et al. 2007, "Finding near neighbors through cluster pruning"): some
of the words lead, every word stands in the list of the leader nearest to it, and a query looks
only into the lists of the leaders nearest to it, which FAISS ranks. The queries that look into a
list are compared with it together, by the exact search: nothing is lost within a list. How many
lists that takes is measured on the queries themselves.
"""

import hashlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dncbm.artifacts import read_json, write_bytes, write_json
from dncbm.errors import ArtifactError
from dncbm.naming.exact import Nearest, Part, fast_products, nearest_words
from dncbm.naming.words import BLOCK, WordRows

_log = logging.getLogger(__name__)

INDEX = "lists.safetensors"
NOTE = "index.json"
AIM = 0.995
"""Share of the queries that tune it which must find their nearest word: others then reach 0.99."""
_LISTS = 4.0
"""Lists per square root of the words."""
_FIRST_PROBES = 16
_AT_ONCE = 1 << 14
"""Queries that go through the words together."""
_RANKED = 512
"""Queries whose lists are ranked at once."""
_PIECE = 1024
"""Most words of a list that are multiplied at once."""


class Lists(NamedTuple):
    """Which words stand together; no list is empty."""

    leaders: Int64[Tensor, "l"]
    """Position of the word that leads each list."""
    owners: Int64[Tensor, "v"]
    """The list of each word."""


class InvertedLists:
    """Words in lists, and a search of the lists nearest to each query."""

    def __init__(self, words: WordRows, lists: Lists) -> None:
        """Search `words` through lists of theirs."""
        self.words, self.lists = words, lists
        self.probes = min(_FIRST_PROBES, len(lists.leaders))
        self._order = lists.owners.argsort(stable=True)
        self._quantiser = faiss.IndexFlatIP(words.width)
        self._quantiser.add(words.take(lists.leaders).numpy())

    @classmethod
    def open(cls, words: WordRows, folder: Path | None, key: str) -> "InvertedLists":
        """The lists kept in `folder` under `key`, or those made now and kept there."""
        stored = _read(folder, key, len(words)) if folder is not None else None
        if stored is None:
            stored = _build(words)
            if folder is not None:
                _write(folder, key, stored)
        return cls(words, stored)

    def search(self, queries: Float[Tensor, "m d"], count: int) -> Nearest:
        """Scores and rows of the `count` best words in reach; -1 marks a gap."""
        found = [
            nearest_words(self.words, some, count, parts=self._parts)
            for some in queries.split(_AT_ONCE)
        ]
        return torch.cat([scores for scores, _ in found]), torch.cat([rows for _, rows in found])

    def tune(self, queries: Float[Tensor, "m d"]) -> None:
        """Look into as many lists as 99.5 % of the queries need to find their nearest word."""
        if not len(queries):
            return
        _, truth = nearest_words(self.words, queries, 1)
        ranked = self._ranked(queries, len(self.lists.leaders))
        needed = (ranked == self.lists.owners[truth]).int().argmax(dim=1) + 1
        self.probes = int(needed.kthvalue(math.ceil(AIM * len(needed))).values)

    def _ranked(self, queries: Tensor, probes: int) -> Int64[Tensor, "m probes"]:
        """The lists whose leaders are nearest to each query."""
        return torch.from_numpy(self._quantiser.search(np.ascontiguousarray(queries), probes)[1])

    def _looking(self, queries: Tensor) -> Bool[Tensor, "l m"]:
        """Which query looks into which list."""
        looking = torch.zeros(len(self.lists.leaders), len(queries), dtype=torch.bool)
        for some in torch.arange(len(queries)).split(_RANKED):
            looking[self._ranked(queries[some], self.probes), some[:, None]] = True
        return looking

    def _parts(self, queries: Tensor) -> Iterator[Part]:
        """Pieces of the lists, and the queries that look into them."""
        looking, owners = self._looking(queries), self.lists.owners
        wanted = looking.any(dim=1)[owners[self._order]]
        for places in self._order[wanted].split(BLOCK):
            rows = self.words.take(places)
            lists, sizes = owners[places].unique_consecutive(return_counts=True)
            ends = sizes.cumsum(0).tolist()
            for entry, size, end in zip(lists.tolist(), sizes.tolist(), ends, strict=True):
                asking = looking[entry].nonzero()[:, 0]
                for piece in torch.arange(end - size, end).split(_PIECE):
                    yield Part(places[piece], rows[piece], asking)


def _build(words: WordRows) -> Lists:
    count = min(2 ** round(math.log2(_LISTS * len(words) ** 0.5)), len(words))
    chosen = torch.randperm(len(words), generator=torch.Generator().manual_seed(0))[:count].sort()
    leaders, precision = chosen.values, fast_products()
    heads = words.take(leaders).to(precision).T
    nearest = torch.empty(len(words), dtype=torch.int64)
    for start, block in words.blocks():
        products = block.to(precision) @ heads
        nearest[start : start + len(block)] = products.max(dim=1).indices
    # A word that equals an earlier leader leads nobody.
    used, owners = torch.unique(nearest, return_inverse=True)
    return Lists(leaders[used], owners)


def _read(folder: Path, key: str, words: int) -> Lists | None:
    try:
        data = (folder / INDEX).read_bytes()
        if read_json(folder / NOTE) != {"key": key, "sha256": hashlib.sha256(data).hexdigest()}:
            return None
        stored = Lists(**load(data))
    except (ArtifactError, OSError, SafetensorError, TypeError) as error:
        _log.info("No index of these words to read (%s); making it.", error)
        return None
    return stored if _fits(stored, words) else None


def _fits(lists: Lists, words: int) -> bool:
    """Whether the lists hold that many words, each led by one of them."""
    leaders, owners = lists
    return (
        leaders.dtype == owners.dtype == torch.int64
        and owners.shape == (words,)
        and torch.equal(owners.unique(), torch.arange(len(leaders)))
        and bool(((leaders >= 0) & (leaders < words)).all())
    )


def _write(folder: Path, key: str, lists: Lists) -> None:
    data = save(lists._asdict())
    write_bytes(folder / INDEX, data)
    write_json(folder / NOTE, {"key": key, "sha256": hashlib.sha256(data).hexdigest()})
