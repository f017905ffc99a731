"""From a phrase to a part of it, where the rest of the phrase adds nothing.

A vocabulary of phrases holds many that share a word with the right name ("cat", "cat scanner", "cat
in a tree"), and chance decides which of them comes first. The shorter one claims less.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor


class Backoff:
    """Chooses the words that stand for the best entry of a concept."""

    def __init__(self, words: Float[Tensor, "v d"], labels: Sequence[str], back_off: float) -> None:
        """Unit-norm `words` as compared, the entry of each, and how much score a part may lack."""
        self._words, self._labels, self._back_off = words, labels, back_off
        self._rows = {label: row for row, label in enumerate(labels)}

    def __call__(
        self, direction: Float[Tensor, "d"], best: int, score: float, limit: float
    ) -> tuple[int, float]:
        """Row and score of the best entry, or of the shortest part that does nearly as well.

        A part is a run of the entry's words, not all, that is an entry itself or whose singular
        is. It may lack `back_off` of the best score, but must not fall under a `limit` that the
        best one passes.
        """
        least = score - self._back_off
        least = max(least, limit) if score >= limit else least
        scores = {row: float(direction @ self._words[row]) for row in self._parts(best)}
        good = [row for row, found in scores.items() if found >= least]
        if not self._back_off or not good:
            return best, score
        chosen = min(good, key=lambda row: (len(self._labels[row].split()), -scores[row], row))
        return chosen, scores[chosen]

    def _parts(self, entry: int) -> list[int]:
        words = self._labels[entry].split()
        runs = {
            " ".join(words[start:stop])
            for start in range(len(words))
            for stop in range(start + 1, len(words) + 1)
            if stop - start < len(words)
        }
        # "horse" of "two horses", but never "short" of "shorts"
        known = {run if run in self._rows else run.removesuffix("s") for run in runs}
        return sorted(self._rows[run] for run in known if run in self._rows)
