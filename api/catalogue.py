"""A dictionary of concepts arranged for browsing: filter, sort, page, examples."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from api.errors import NotFound
from dncbm.types import ConceptName

STATISTICS = ("density", "mean_code", "max_code")


@dataclass(frozen=True, slots=True)
class Example:
    """An image in which a concept is strong."""

    rank: int
    item_id: str
    row: int
    code: float


class ConceptCatalogue:
    """Read-only columns of a dictionary; safe to share between threads."""

    def __init__(self, dictionary: Any, hidden: frozenset[int] = frozenset()) -> None:
        self.hidden = hidden
        """Concepts that are listed only where blocked ones are asked for."""
        self.names: Sequence[ConceptName] = list(dictionary.names)
        self._columns = {name: _numbers(dictionary.statistics, name) for name in STATISTICS}
        self._columns["score"] = np.array([name.score for name in self.names], dtype=float)
        self._columns["margin"] = np.array([name.margin for name in self.names], dtype=float)
        self._columns["concept"] = np.arange(len(self.names), dtype=float)
        self._counts = Counter(name.name for name in self.names)
        self._folded = [name.name.casefold() for name in self.names]
        self._examples = _group_examples(dictionary.examples)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def named(self) -> int:
        """How many concepts have a name."""
        return sum(name.status == "named" for name in self.names)

    @property
    def unique_names(self) -> int:
        """How many different names there are."""
        return len({name.name for name in self.names if name.status == "named"})

    def called(self, name: str) -> int:
        """How many concepts have exactly this name."""
        return self._counts[name]

    def concept(self, index: int) -> ConceptName:
        """The name of a concept, with its evidence.

        Raises:
            NotFound: no such index.
        """
        if not 0 <= index < len(self):
            raise NotFound(f"There is no concept {index}; concepts are 0 to {len(self) - 1}.")
        return self.names[index]

    def statistic(self, name: str, index: int) -> float | None:
        """A statistic of a concept, `None` where it was not measured."""
        return finite(self._columns[name][index])

    def examples(self, index: int) -> list[Example]:
        """Images in which the concept is strongest, best first."""
        return self._examples.get(index, [])

    def find(
        self,
        *,
        name: str | None,
        status: str | None,
        sort: str,
        descending: bool,
        weights: np.ndarray | None = None,
    ) -> list[int]:
        """Indices of the concepts that match, sorted; ties and missing values by index.

        `sort` is a column, or `weight` for the given `weights` (c,).
        """
        folded = (name or "").casefold()
        chosen = [
            index
            for index, item in enumerate(self.names)
            if (status is None or item.status == status)
            and folded in self._folded[index]
            and (status == "blocked" or index not in self.hidden)
        ]
        column = weights if sort == "weight" and weights is not None else self._columns[sort]
        values = column[chosen]
        keys = -values if descending else values
        return [chosen[position] for position in np.argsort(keys, kind="stable")]


def finite(value: float) -> float | None:
    """The number, or `None` for NaN and infinities, which JSON cannot say."""
    return float(value) if math.isfinite(value) else None


def _numbers(table: Any, column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(table[column], dtype=np.float64)


def _group_examples(table: Any) -> dict[int, list[Example]]:
    columns = [np.asarray(table[name]) for name in ("concept", "rank", "item_id", "row", "code")]
    groups: dict[int, list[Example]] = {}
    for concept, rank, item_id, row, code in zip(*columns, strict=True):
        example = Example(int(rank), str(item_id), int(row), float(code))
        groups.setdefault(int(concept), []).append(example)
    for group in groups.values():
        group.sort(key=lambda example: example.rank)
    return groups
