"""Nearest words by inner product, on FAISS."""

from typing import Any

import faiss
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dncbm.errors import InvalidInput, UnknownName

INDEX_KINDS = ("exact", "approximate")
_QUERIES = 1024
_SPARE = 8
_HNSW_LINKS = 32
_HNSW_BUILD = 80
_HNSW_SEARCH = 256


class WordIndex:
    """Inner-product search over unit-norm word embeddings.

    `exact` compares with every word. `approximate` (HNSW graph, Malkov and Yashunin 2018)
    is for vocabularies far beyond 100,000 words; `recall` measures what it misses.
    """

    def __init__(self, embeddings: Float[Tensor, "v d"], *, kind: str = "exact") -> None:
        if kind not in INDEX_KINDS:
            raise UnknownName("index", kind, INDEX_KINDS)
        self.embeddings = embeddings.detach().to("cpu", torch.float32).contiguous()
        self.kind = kind
        self._index = _build(self.embeddings.numpy(), kind)

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(
        self, queries: Float[Tensor, "m d"], count: int
    ) -> tuple[Float[Tensor, "m count"], Int64[Tensor, "m count"]]:
        """Scores and rows of the `count` best words, best first; ties by the lower row.

        Memory is bounded by blocks of queries. Where fewer words exist, all are returned.

        Raises:
            InvalidInput: queries of another width, or not finite.
        """
        values = queries.detach().to("cpu", torch.float32)
        if values.shape[1] != self.embeddings.shape[1]:
            raise InvalidInput(
                f"Directions have width {values.shape[1]}, the vocabulary has width "
                f"{self.embeddings.shape[1]}. Use a vocabulary of the same encoder."
            )
        if not torch.isfinite(values).all():
            raise InvalidInput("Directions hold NaN or infinity. Train the dictionary again.")
        count = min(count, len(self))
        blocks = [self._search_block(block, count) for block in values.split(_QUERIES)]
        if not blocks:
            return torch.empty(0, count), torch.empty(0, count, dtype=torch.int64)
        return torch.cat([b[0] for b in blocks]), torch.cat([b[1] for b in blocks])

    def _search_block(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        reach = min(count + _SPARE, len(self))
        _, found = self._index.search(np.ascontiguousarray(queries.numpy()), reach)
        rows = torch.from_numpy(found)
        # HNSW may find fewer than asked: -1 marks a gap and must sort last.
        gaps = rows < 0
        exact = (self.embeddings[rows.clamp(min=0)].double() * queries.double()[:, None]).sum(2)
        exact = exact.masked_fill(gaps, -torch.inf)
        # FAISS leaves the order of equal scores open; equal to 7 digits means equal here.
        order = np.lexsort((rows.numpy(), -exact.numpy().round(7)), axis=1)[:, :count]
        best = torch.from_numpy(order)
        return exact.gather(1, best).float(), rows.gather(1, best)

    def recall(self, queries: Float[Tensor, "m d"], count: int = 6) -> float:
        """Share of the exact `count` nearest words that this index finds, in [0, 1]."""
        if self.kind == "exact":
            return 1.0
        _, truth = WordIndex(self.embeddings).search(queries, count)
        _, found = self.search(queries, count)
        hits = (truth[:, :, None] == found[:, None, :]).any(dim=2)
        return float(hits.double().mean())


def _build(embeddings: np.ndarray, kind: str) -> Any:
    width = embeddings.shape[1]
    index: Any
    if kind == "exact":
        index = faiss.IndexFlatIP(width)
    else:
        index = faiss.IndexHNSWFlat(width, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _HNSW_BUILD
        index.hnsw.efSearch = _HNSW_SEARCH
    index.add(embeddings)
    return index
