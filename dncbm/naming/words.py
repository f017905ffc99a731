"""The words of a vocabulary as concepts are compared with them, a block at a time.

A vocabulary of a million phrases is a gigabyte in half precision. It stays where it is, usually
mapped from its file; only the block at hand is widened, centred and brought to length 1.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dncbm.naming.centring import centre_words
from dncbm.naming.vocabulary import unit_rows

BLOCK = 8192


class WordRows:
    """Unit rows of some words, centred, made when asked for."""

    def __init__(
        self,
        embeddings: Float[Tensor, "v d"],
        mean: Float[Tensor, "d"] | None = None,
        kept: Int64[Tensor, "s"] | None = None,
    ) -> None:
        """Words `kept` (all) of `embeddings` (any precision, never copied), less `mean` (0)."""
        self.embeddings = embeddings.detach()
        self.mean = torch.zeros(embeddings.shape[1]) if mean is None else mean
        self.kept = kept

    def __len__(self) -> int:
        return len(self.embeddings) if self.kept is None else len(self.kept)

    @property
    def width(self) -> int:
        """Of each row, d."""
        return self.embeddings.shape[1]

    def take(self, rows: Int64[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """The words at these positions, float32."""
        chosen = rows if self.kept is None else self.kept[rows]
        return centre_words(unit_rows(self.embeddings[chosen], "word"), self.mean)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, Float[Tensor, "b d"]]]:
        """(position of the first, words) block by block."""
        for start in range(0, len(self), size):
            if self.kept is None:
                part = self.embeddings[start : start + size]
                yield start, centre_words(unit_rows(part, "word"), self.mean)
            else:
                stop = min(start + size, len(self))
                yield start, self.take(torch.arange(start, stop))


def mean_unit_word(
    embeddings: Float[Tensor, "v d"], labels: Sequence[str] | None = None
) -> Float[Tensor, "d"]:
    """The mean of the words at length 1, summed block by block.

    Raises:
        InvalidInput: an embedding that is not finite or has length 0; the message names it.
    """
    total = torch.zeros(embeddings.shape[1], dtype=torch.float64)
    for start in range(0, len(embeddings), BLOCK):
        part = embeddings[start : start + BLOCK]
        total += unit_rows(part, "word", labels, start=start).sum(dim=0, dtype=torch.float64)
    return (total / len(embeddings)).float()
