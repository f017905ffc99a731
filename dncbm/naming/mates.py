"""Concepts of one name told apart: "dog (german shepherd)", "dog (white dog)".

Back-off gives many concepts one general name. What sets one of them apart is the word that fits it
better than it fits its name-mates on average.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dncbm.naming.words import WordRows
from dncbm.types import ConceptName

FIT = 0.8
"""A detail scores at least this share of the concept's best entry: it must fit by itself."""
CONTRAST = 0.03
"""And at least this much more than with the mean of the name-mates."""
_POOL = 2048
_BLOCK = 1024
_INFLECTED = (
    (r"(?<!s)s$", ""),  # shoes
    (r"(?<=[sxzho])es$", ""),  # dresses
    (r"ies$", "y"),  # puppies
    (r"(ed|ing)$", ""),  # buttoned
    (r"(ed|ing)$", "e"),  # sleeved
    (r"([^aeiouls])\1(ed|ing)$", r"\1"),  # running
)
"""Endings of English words, and what stands there in the word that they are forms of."""


def details(
    names: Sequence[str | None],
    words: WordRows,
    labels: Sequence[str],
    directions: Float[Tensor, "c d"],
    nearest: tuple[Float[Tensor, "c r"], Int64[Tensor, "c r"]],
) -> dict[int, str]:
    """Concept → the entry that sets it apart from the concepts of the same name.

    With p_j the direction of concept j, M its name-mates (itself among them) and w an entry on the
    list of one of them, the detail is the one of largest contrast

        p_j . w - mean_{m in M} p_m . w

    among those that fit (`FIT`) and say more than the name. Concepts without such an entry, or
    without a name-mate, have none.

    Args:
        names: per concept; None for one without a name.
        words: as compared.
        labels: the entry of each word.
        directions: of the concepts, length 1.
        nearest: scores and rows of the nearest entries, best first; -1 where there are none.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for concept, name in enumerate(names):
        if name is not None:
            groups[name].append(concept)
    found: dict[int, str] = {}
    for name, mates in groups.items():
        if len(mates) > 1:
            chosen = _told_apart(name, words, labels, directions[mates], _only(nearest, mates))
            found |= {mates[place]: _bare(labels[row]) for place, row in chosen.items()}
    return found


def _only(
    nearest: tuple[Tensor, Tensor], concepts: Sequence[int]
) -> tuple[Float[Tensor, "m r"], Int64[Tensor, "m r"]]:
    scores, rows = nearest
    return scores[list(concepts)], rows[list(concepts)]


def _told_apart(
    name: str,
    words: WordRows,
    labels: Sequence[str],
    directions: Tensor,
    nearest: tuple[Tensor, Tensor],
) -> dict[int, int]:
    """Place among the mates → row of its detail."""
    scores, rows = nearest
    pool = [row for row in _most_listed(rows) if _says_more(labels[row], name)]
    if not pool:
        return {}
    entries = words.take(torch.tensor(pool))
    common = entries @ directions.mean(dim=0)
    found: dict[int, int] = {}
    for start in range(0, len(directions), _BLOCK):
        own = directions[start : start + _BLOCK] @ entries.T
        least = FIT * scores[start : start + _BLOCK].amax(dim=1, keepdim=True)
        best = (own - common).masked_fill(own < least, -torch.inf).max(dim=1)
        for place in torch.nonzero(best.values >= CONTRAST)[:, 0].tolist():
            found[start + place] = pool[int(best.indices[place])]
    return found


def _most_listed(rows: Tensor) -> list[int]:
    """Entries on the mates' lists, those on most lists where there are very many."""
    used, counts = torch.unique(rows[rows >= 0], return_counts=True)
    kept = counts.argsort(descending=True, stable=True)[:_POOL]
    chosen: list[int] = used[kept].sort().values.tolist()
    return chosen


def base_names(names: Sequence[ConceptName]) -> list[str]:
    """Per concept the name without its detail: "dog" of "dog (white dog)", "crane (bird)" as it is.

    Brackets may belong to the entry itself. They hold a detail only where another concept of the
    group has the same words before them and not the same brackets: a detail sets some of the
    name-mates apart from others, so never all of them alike.
    """
    found: dict[tuple[int, str], set[str]] = defaultdict(set)
    for name in names:
        for start in {name.name, _undetailed(name.name)}:
            found[name.group, start].add(name.name)
    return [
        start if len(found[name.group, start]) > 1 else name.name
        for name, start in ((name, _undetailed(name.name)) for name in names)
    ]


def _undetailed(name: str) -> str:
    return re.sub(r" \([^()]*\)$", "", name)


def _bare(entry: str) -> str:
    """Without what a word list adds in brackets, since details stand in brackets themselves."""
    return re.sub(r"\s*\(.*?\)", "", entry).strip() or entry


def _says_more(entry: str, name: str) -> bool:
    """Whether an entry is more than the name, a part of it or other forms of its words."""
    known = {form for word in _bare(name).casefold().split() for form in _form_of(word)}
    words = _bare(entry).casefold().split()
    return any(known.isdisjoint(_form_of(word)) for word in words)


def _form_of(word: str) -> set[str]:
    """The word and all that it may be a form of, {sleeved, sleev, sleeve}.

    Sets that meet mean the same word. One stem per word would also make "cap" of "cape".
    """
    forms = {re.sub(ending, root, word) for ending, root in _INFLECTED}
    return {word} | {form for form in forms if len(form) >= 3}
