"""Nearest words of directions: exactly, or by an index that measures what it misses."""

from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dncbm.errors import InvalidInput, UnknownName
from dncbm.naming.exact import nearest_words
from dncbm.naming.words import WordRows

INDEX_KINDS = ("auto", "exact", "approximate")
RECALL_SAMPLE = 512
_EXACT_UP_TO = 3e10
"""Concepts times words times width / 512: two to three minutes of one core with bfloat16."""
_FEW_WORDS = 500_000
"""Below, a search must look into so many lists that it takes as long as the exact one."""


def index_kind(kind: str, concepts: int, words: int, width: int) -> str:
    """What `auto` stands for at this size; the other kinds stand for themselves."""
    if kind != "auto":
        return kind
    soon = words < _FEW_WORDS or concepts * words * width / 512 <= _EXACT_UP_TO
    return "exact" if soon else "approximate"


class WordIndex:
    """The words nearest to directions, by cosine."""

    def __init__(
        self, words: WordRows, *, kind: str = "exact", saved: Path | None = None, key: str = ""
    ) -> None:
        """Make the index, or read the one that `saved` holds.

        Args:
            words: as compared.
            kind: `exact` or `approximate` (which `saved` and `key` are for).
            saved: folder of the index; None keeps it in memory only.
            key: of vocabulary, centring and blocked words: an index made for another is not used.
        """
        if kind not in INDEX_KINDS[1:]:
            raise UnknownName("index", kind, INDEX_KINDS[1:])
        self.words, self.kind = words, kind
        self._lists = None
        if kind == "approximate":
            from dncbm.naming.approximate import InvertedLists

            self._lists = InvertedLists.open(words, saved, key)

    def __len__(self) -> int:
        return len(self.words)

    def search(
        self, queries: Float[Tensor, "m d"], count: int
    ) -> tuple[Float[Tensor, "m count"], Int64[Tensor, "m count"]]:
        """Scores and rows of the `count` best words, best first; ties by the lower row.

        Where fewer words exist, all are returned; -1 marks a word that was not found.

        Raises:
            InvalidInput: queries of another width, or not finite.
        """
        values = queries.detach().to("cpu", torch.float32)
        if values.shape[1] != self.words.width:
            raise InvalidInput(
                f"Directions have width {values.shape[1]}, the vocabulary has width "
                f"{self.words.width}. Use a vocabulary of the same encoder."
            )
        if not torch.isfinite(values).all():
            raise InvalidInput("Directions hold NaN or infinity. Train the dictionary again.")
        count = min(count, len(self))
        if self._lists is None:
            return nearest_words(self.words, values, count)
        return self._lists.search(values, count)

    def tune(self, queries: Float[Tensor, "m d"]) -> None:
        """Search an approximate index as widely as such queries need it."""
        if self._lists is not None:
            self._lists.tune(_some(queries))

    def recall(self, queries: Float[Tensor, "m d"], count: int = 1) -> float:
        """Share of the true `count` nearest words of some queries that the index finds."""
        if self.kind == "exact":
            return 1.0
        asked = _some(queries)
        _, truth = nearest_words(self.words, asked, min(count, len(self)))
        _, found = self.search(asked, count)
        hits = (truth[:, :, None] == found[:, None, :]).any(dim=2)
        return float(hits.double().mean())


def _some(queries: Tensor) -> Tensor:
    """At most 512 of them, evenly chosen."""
    step = max(1, -(-len(queries) // RECALL_SAMPLE))
    return queries[::step].detach().to("cpu", torch.float32)
