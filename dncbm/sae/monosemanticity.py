"""How alike the images of one concept are: the MonoSemanticity score, in closed form.

Pach et al. 2025 (arXiv 2504.02821, eq. 3 to 6) weigh every pair of images by the product of its
min-max scaled codes a and average the cosine s of their embeddings:

    MS = sum_{n<m} a_n a_m s_nm / sum_{n<m} a_n a_m

With unit embeddings e both sums are squares less their diagonal, so one sparse product of codes
and embeddings replaces the loop over pairs, and rows may come in any number of batches:

    MS = (|sum_n a_n e_n|^2 - sum_n a_n^2) / ((sum_n a_n)^2 - sum_n a_n^2)

Scaling by the range leaves MS as it is; of the min-max scaling only the shift by the minimum is
needed, and that is zero unless a concept is active in every row.
"""

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.errors import InvalidInput
from dncbm.sae.active import ActiveCodes
from dncbm.sae.rows import CHUNK, EmbeddingRows

_NO_PAIRS = 1e-12
"""Pair weights below this share of the squared summed codes are rounding, not pairs."""


class Monosemanticity:
    """Sums over batches of rows, in float64; memory is c x d whatever the number of rows.

    Differences to the authors' code: rows of length zero are left out (there they count as
    cosine 0), and which encoder embeds is the caller's choice (there another one than the SAE's).
    With the SAE's own embeddings the score is partly circular; compare it with `baseline`.
    """

    def __init__(self, num_concepts: int, embed_dim: int, device: torch.device | str = "cpu"):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.rows = 0
        self._fired = torch.zeros(num_concepts, dtype=torch.int64, device=device)
        self._smallest = zeros(num_concepts).fill_(torch.inf)
        self._sum, self._squares = zeros(num_concepts), zeros(num_concepts)
        self._weighted, self._total = zeros(num_concepts, embed_dim), zeros(embed_dim)

    def add(self, codes: ActiveCodes, embeddings: Float[Tensor, "n d"]) -> None:
        """Count rows: codes > 0 and the embeddings whose likeness is judged, of any length."""
        unit = functional.normalize(embeddings.double(), dim=-1)
        present = unit.any(dim=-1)
        kept = present[codes.rows]
        rows, concepts = codes.rows[kept], codes.concepts[kept]
        values = codes.values[kept].double()
        count = len(self._fired)
        self.rows += int(present.sum())
        self._fired += torch.bincount(concepts, minlength=count)
        self._sum += torch.bincount(concepts, values, minlength=count)
        self._squares += torch.bincount(concepts, values.square(), minlength=count)
        self._smallest.scatter_reduce_(0, concepts, values, "amin")
        self._total += unit.sum(dim=0)
        transposed = torch.sparse_coo_tensor(
            torch.stack([concepts, rows]), values, (count, len(unit)), check_invariants=False
        )
        self._weighted += transposed @ unit

    def scores(self) -> Float[Tensor, "c"]:
        """MS of each concept, in [-1, 1]; NaN where fewer than two rows weigh in."""
        always = self._fired == self.rows
        low = torch.where(always, self._smallest, 0.0)
        total = self._sum - self.rows * low
        squares = self._squares - 2 * low * self._sum + self.rows * low.square()
        weighted = self._weighted - low[:, None] * self._total
        pairs = total.square() - squares
        scores = (weighted.square().sum(dim=-1) - squares) / pairs
        return torch.where(pairs > _NO_PAIRS * self._sum.square(), scores, torch.nan)

    def baseline(self) -> float:
        """Mean cosine of two different rows: the score of a concept that tells nothing."""
        if self.rows < 2:
            return float("nan")
        pairs = self.rows * (self.rows - 1)
        return (float(self._total.square().sum()) - self.rows) / pairs


def monosemanticity(codes: sp.csr_matrix, embeddings: EmbeddingRows) -> Monosemanticity:
    """Scores of stored codes (n, c) under the embeddings of any encoder for the same n images.

    Raises:
        InvalidInput: the numbers of rows differ.
    """
    if codes.shape[0] != len(embeddings):
        raise InvalidInput(
            f"Codes have {codes.shape[0]} rows, embeddings {len(embeddings)}; give the same "
            "images in the same order."
        )
    found = Monosemanticity(codes.shape[1], embeddings.shape[1])
    for start in range(0, codes.shape[0], CHUNK):
        batch = codes[start : start + CHUNK]
        found.add(_active(batch), embeddings.gather(torch.arange(start, start + batch.shape[0])))
    return found


def _active(codes: sp.csr_matrix) -> ActiveCodes:
    entries = codes.tocsr().tocoo()
    values, concepts, rows, starts = (
        torch.from_numpy(np.asarray(part))
        for part in (entries.data, entries.col, entries.row, codes.indptr[:-1])
    )
    return ActiveCodes(values, concepts.long(), rows.long(), starts.long())
