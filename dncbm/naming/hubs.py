"""Words that are near to everything, and what can be done about them.

In many dimensions some words are among the nearest of very many concepts, whatever they show
(Radovanovic et al. 2010, "Hubs in space"). CSLS (Conneau et al. 2018) takes off each word's mean
cosine with the concepts nearest to it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dncbm.naming.exact import Nearest
from dncbm.naming.words import WordRows

NEIGHBOURS = 10
_BANK = 4096
_BLOCK = 4096


def without_hubs(
    words: WordRows, bank: Float[Tensor, "b d"], nearest: Nearest, weight: float
) -> Nearest:
    """The nearest words of each concept, ordered anew by score - weight * (r - mean r).

    r of a word is its mean cosine with the 10 rows of the bank nearest to it; CSLS is weight 0.5.
    Only words on somebody's list are looked at, so memory grows with those. The scores returned
    stay cosines.

    Args:
        words: as compared.
        bank: directions of the concepts (4,096 of them, evenly chosen, where there are more).
        nearest: scores and rows of each concept's nearest words; -1 where there are none.
        weight: 0 changes nothing.
    """
    scores, rows = nearest
    if not weight or not len(bank):
        return nearest
    bank = bank[:: -(-len(bank) // _BANK)]
    used, places = torch.unique(rows.clamp(min=0), return_inverse=True)
    reach = min(NEIGHBOURS, len(bank))
    means = [
        (words.take(part) @ bank.T).topk(reach, dim=1).values.mean(dim=1)
        for part in used.split(_BLOCK)
    ]
    density = torch.cat(means)
    adjusted = (scores - weight * (density - density.mean())[places]).masked_fill(
        rows < 0, -torch.inf
    )
    order = adjusted.argsort(dim=1, descending=True, stable=True)
    return scores.gather(1, order), rows.gather(1, order)


def hubness(rows: Int64[Tensor, "c r"], labels: Sequence[str], *, shown: int = 5) -> dict[str, Any]:
    """How unevenly the concepts' 10 nearest words are spread, as JSON-serialisable values.

    Returns:
        skewness: third standardised moment over all words of N_10, the number of concepts that
            have the word among their 10 nearest; 0 where all words serve alike.
        largest: the words of the largest N_10, as [word, N_10].
    """
    near = rows[:, :NEIGHBOURS]
    counts = np.bincount(near[near >= 0].numpy(), minlength=len(labels))
    spread = counts.std()
    skew = float(((counts - counts.mean()) ** 3).mean() / spread**3) if spread else 0.0
    largest = np.argsort(-counts, kind="stable")[:shown].tolist()
    return {"skewness": skew, "largest": [[labels[row], int(counts[row])] for row in largest]}
