"""Most of the nearest words, for vocabularies whose full comparison takes too long.

FAISS sorts the words into lists around centroids (IVF) and keeps a 4-bit product code of each, 64
bytes at width 512. A query looks into the nearest lists and scores the best codes again with the
true embeddings. How many lists that takes is measured on the queries themselves.
"""

import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.artifacts import file_sha256, read_json, write_json, writing
from dncbm.errors import ArtifactError
from dncbm.files import hidden
from dncbm.naming.exact import Nearest, nearest_words, rescore
from dncbm.naming.words import WordRows

_log = logging.getLogger(__name__)

INDEX = "words.faiss"
NOTE = "index.json"
RECALL = 0.99
"""Share of the nearest words that the search must find."""
_TRAINING = 40
"""Words per list from which the centroids are learned."""
_CODE_WIDTH = 4
_FIRST_PROBES = 16
_SPARE = 100
"""Least codes per query that are scored again."""


class InvertedLists:
    """An IVF index with product codes over unit rows."""

    def __init__(self, words: WordRows, index: Any) -> None:
        """Search `words` through a FAISS index of theirs."""
        self.words, self._index = words, index
        self.probes = min(_FIRST_PROBES, index.nlist)
        self.spare = _SPARE

    @classmethod
    def open(cls, words: WordRows, folder: Path | None, key: str) -> "InvertedLists":
        """The index kept in `folder` under `key`, or one made now and kept there."""
        stored = _read(folder, key) if folder is not None else None
        if stored is None:
            stored = _build(words)
            if folder is not None:
                _write(folder, key, stored)
        return cls(words, stored)

    def search(self, queries: Float[Tensor, "m d"], count: int) -> Nearest:
        """Scores and rows of the `count` best words found; -1 marks a gap."""
        reach = min(max(2 * count, self.spare), len(self.words))
        self._index.nprobe = self.probes
        _, rows = self._index.search(np.ascontiguousarray(queries.numpy()), reach)
        return rescore(self.words, queries, torch.from_numpy(rows), count)

    def tune(self, queries: Float[Tensor, "m d"]) -> None:
        """Look into more lists, at more codes, until 99 % of the queries find their nearest word.

        Each round doubles both. The share is measured again, on other queries, by `recall`.
        """
        _, truth = nearest_words(self.words, queries, 1)
        while float((self.search(queries, 1)[1] == truth).double().mean()) < RECALL:
            if self.probes == self._index.nlist and self.spare >= len(self.words):
                return
            self.probes = min(2 * self.probes, self._index.nlist)
            self.spare *= 2


def _build(words: WordRows) -> Any:
    lists = min(2 ** max(round(np.log2(2 * len(words) ** 0.5)), 0), max(len(words) // _TRAINING, 1))
    codes = next(n for n in range(max(words.width // _CODE_WIDTH, 1), 0, -1) if not words.width % n)
    recipe = f"IVF{lists},PQ{codes}x4fs"
    index = faiss.index_factory(words.width, recipe, faiss.METRIC_INNER_PRODUCT)
    index.train(_sample(words, max(lists * _TRAINING, 1024)).numpy())
    for _, block in words.blocks():
        index.add(block.numpy())
    return index


def _sample(words: WordRows, count: int) -> Tensor:
    """Evenly chosen words."""
    return words.take(torch.arange(0, len(words), max(len(words) // count, 1))[:count])


def _read(folder: Path, key: str) -> Any:
    try:
        note = read_json(folder / NOTE)
        if note != {"key": key, "sha256": file_sha256(folder / INDEX)}:
            return None
        return faiss.read_index(str(folder / INDEX))
    except (ArtifactError, OSError, RuntimeError) as error:
        _log.info("No index of these words to read (%s); making it.", error)
        return None


def _write(folder: Path, key: str, index: Any) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draft = hidden(folder / INDEX, "part")
        faiss.write_index(index, str(draft))
        digest = file_sha256(draft)
        draft.replace(folder / INDEX)
    write_json(folder / NOTE, {"key": key, "sha256": digest})
