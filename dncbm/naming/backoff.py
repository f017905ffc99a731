"""From a phrase to what the best phrases agree on.

A vocabulary of phrases holds many that share a word with the right name ("cat", "cat scanner", "cat
in a tree"), and chance decides which of them comes first. Each of the best entries votes for itself
and for its parts; the part that most of them share claims less and is right more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dncbm.naming.exact import Nearest, candidate_scores
from dncbm.naming.words import WordRows

TEMPERATURE = 0.05
"""Votes fall by e for each 0.05 of score that an entry lacks."""
_TRIED = 8
"""Most voted parts whose own score is looked up."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """The entries that stand for the best ones of each concept."""

    rows: Int64[np.ndarray, "c"]
    scores: Float[np.ndarray, "c"]
    agreement: Float[np.ndarray, "c"]
    """Share of the votes that each has, in (0, 1]."""


def back_off(
    words: WordRows,
    labels: Sequence[str],
    directions: Float[Tensor, "c d"],
    nearest: Nearest,
    slack: float,
) -> Spoken:
    """Per concept the part that most of its nearest entries share, if it does nearly as well.

    An entry votes with the weight exp(score / 0.05) for itself and for each part: a run of its
    words, not all, that is an entry itself or whose singular is. The winner may lack `slack` of the
    best score; ties go to fewer words, then the better score. Without `slack` it is the best entry.

    Args:
        words: as compared.
        labels: the entry of each word.
        directions: of the concepts, length 1.
        nearest: scores and rows of the nearest entries, best first; -1 where there are none.
        slack: at least 0.
    """
    best, entry = nearest[0][:, 0].double().numpy(), nearest[1][:, 0].numpy()
    votes = _votes(nearest, labels)
    table, shares = _most_voted(votes)
    own = candidate_scores(words, directions, torch.from_numpy(table)).numpy()
    good = (own >= best[:, None] - slack) & (table >= 0) & bool(slack)
    lengths = _lengths(table, labels)
    order = np.lexsort((table, -own, lengths, -shares.round(6), ~good), axis=1)[:, :1]
    first, found = (np.take_along_axis(part, order, axis=1)[:, 0] for part in (table, own))
    chosen = np.where(good.any(axis=1), first, entry)
    return Spoken(
        chosen,
        np.where(good.any(axis=1), found, best),
        np.asarray(votes[np.arange(len(chosen)), chosen]).ravel().clip(max=1.0),
    )


def _votes(nearest: Nearest, labels: Sequence[str]) -> sp.csr_matrix:
    """(c, v) share of the votes that each entry has from each concept's nearest ones."""
    scores, rows = (part.numpy() for part in nearest)
    asked = np.unique(rows[rows >= 0])
    weights = np.exp((scores.astype(np.float64) - scores[:, :1]) / TEMPERATURE) * (rows >= 0)
    weights /= weights.sum(axis=1, keepdims=True)
    concepts = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
    kept = rows >= 0
    voters = sp.csr_matrix(
        (weights[kept], (concepts[kept], np.searchsorted(asked, rows[kept]))),
        shape=(len(rows), len(asked)),
    )
    parts = Parts(labels, asked)
    lists = [parts(row) for row in asked.tolist()]
    edges = np.cumsum([0, *map(len, lists)])
    columns = np.array([part for some in lists for part in some])
    ones = np.ones(len(columns))
    return voters @ sp.csr_matrix((ones, columns, edges), shape=(len(asked), len(labels)))


def _most_voted(votes: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Rows (-1 where there are no more) and votes of each concept's most voted entries, (c, 8)."""
    flat = votes.tocoo()
    order = np.lexsort((flat.col, -flat.data.round(6), flat.row))
    concepts, rows, shares = flat.row[order], flat.col[order], flat.data[order]
    place = np.arange(len(rows)) - np.searchsorted(concepts, concepts)
    kept = place < _TRIED
    table = np.full((votes.shape[0], _TRIED), -1, dtype=np.int64)
    voted = np.zeros(table.shape)
    table[concepts[kept], place[kept]] = rows[kept]
    voted[concepts[kept], place[kept]] = shares[kept]
    return table, voted


def _lengths(table: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Words of each entry."""
    used, places = np.unique(table, return_inverse=True)
    counts = np.array([len(labels[row].split()) if row >= 0 else 0 for row in used.tolist()])
    return counts[places].reshape(table.shape)


class Parts:
    """The entries that a phrase speaks of: itself and those within it."""

    def __init__(self, labels: Sequence[str], asked: Sequence[int] | np.ndarray) -> None:
        """Looks up only what the `asked` entries need: a dict of a million labels is large."""
        wanted = {run for row in asked for run in _forms(labels[row])}
        self._rows = {label: row for row, label in enumerate(labels) if label in wanted}
        self._labels = labels
        self._known: dict[int, tuple[int, ...]] = {}

    def __call__(self, row: int) -> tuple[int, ...]:
        """The entry `row` first, then its parts."""
        if row not in self._known:
            # "horse" of "two horses", but never "short" of "shorts"
            inner = (_spelt(run, self._rows) for run in _runs(self._labels[row]))
            found = {self._rows[run] for run in inner if run in self._rows}
            self._known[row] = (row, *sorted(found - {row}))
        return self._known[row]


def _runs(label: str) -> set[str]:
    """Runs of an entry's words, not all of them."""
    words = label.split()
    count = len(words)
    spans = ((start, stop) for start in range(count) for stop in range(start + 1, count + 1))
    return {" ".join(words[start:stop]) for start, stop in spans if stop - start < count}


def _forms(label: str) -> set[str]:
    runs = _runs(label)
    return runs | {run.removesuffix("s") for run in runs}


def _spelt(run: str, known: dict[str, int]) -> str:
    return run if run in known else run.removesuffix("s")
