"""Concepts set, scaled or removed in the codes of an image: what would the head decide then?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.errors import InvalidInput, UnknownName
from dncbm.types import ChangedCode

MOST_CHANGES = 1000
"""In one request."""
_FORMS = (
    '{"concept": 17, "set": 0.0}, {"concept": "sneaker", "scale": 2.0} or '
    '{"concept": 17, "remove": true}'
)
_LARGEST = float(torch.finfo(torch.float32).max)


@final
@dataclass(frozen=True, slots=True)
class CodeChange:
    """New code = old code x `factor` + `value`: set is (0, value), scale (factor, 0).

    Raises:
        InvalidInput: a negative or non-finite number: codes are never negative.
    """

    concept: int | str
    """Index, or a name, which stands for all concepts that have it."""
    factor: float = 0.0
    value: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for number in (self.factor, self.value):
            if not 0.0 <= number <= _LARGEST:
                raise InvalidInput(
                    f"Concept {self.concept!r} cannot get a code or factor of {number}: it must "
                    f"be a finite number from 0 to {_LARGEST:.3g}."
                )


def parse_changes(items: Any) -> tuple[CodeChange, ...]:
    """Changes from JSON values, each of them with one of `set`, `scale` and `remove`.

    Raises:
        InvalidInput: not a list of such objects, an empty or a very long one.
    """
    if not isinstance(items, list | tuple) or not 1 <= len(items) <= MOST_CHANGES:
        raise InvalidInput(
            f"changes must be a list of 1 to {MOST_CHANGES} objects like {_FORMS}, got "
            f"{str(items)[:60]}."
        )
    return tuple(_parsed(item) for item in items)


def _parsed(item: Any) -> CodeChange:
    how = set(item) - {"concept"} if isinstance(item, Mapping) else set()
    if len(how) != 1 or not how <= {"set", "scale", "remove"} or "concept" not in item:
        raise InvalidInput(f"The change {str(item)[:100]} is not of the form {_FORMS}.")
    concept, (verb,) = item["concept"], how
    if isinstance(concept, bool) or not isinstance(concept, int | str):
        raise InvalidInput(
            f"concept must be an index or a name, got {str(concept)[:60]!r} in a change."
        )
    if verb == "remove":
        if item["remove"] is not True:
            raise InvalidInput(
                f"remove must be true, got {str(item['remove'])[:60]!r} for concept {concept!r}; "
                "leave the change out to keep the concept."
            )
        return CodeChange(concept)
    number = _number(item[verb], f"{verb} of concept {concept!r}")
    return CodeChange(concept, **{"factor" if verb == "scale" else "value": number})


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{what} must be a number, got {str(value)[:60]!r}.")
    try:
        return float(value)
    except OverflowError:  # an integer of very many digits
        return math.inf


def changed_concepts(
    changes: Sequence[CodeChange], names: Sequence[str], bases: Sequence[str] = ()
) -> dict[int, CodeChange]:
    """Which concept each change is about, in the order given, names opened.

    Args:
        changes: what to do.
        names: of all concepts, in order.
        bases: names without their detail, which stand for all that share them where no whole name
            is meant.

    Raises:
        UnknownName: no concept of that name; the message lists the nearest.
        InvalidInput: an index that does not exist, or two changes of one concept.
    """
    whole, shared = _by_name(names), _by_name(bases)
    places = shared | whole
    found: dict[int, CodeChange] = {}
    for change in changes:
        for concept in _places(change.concept, places, len(names)):
            if concept in found:
                raise InvalidInput(
                    f"Concept {concept} ({names[concept]!r}) is changed twice: by "
                    f"{found[concept].concept!r} and by {change.concept!r}. Change it once."
                )
            found[concept] = change
    return found


def _by_name(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found.setdefault(name, []).append(index)
    return found


def _places(concept: int | str, places: Mapping[str, list[int]], count: int) -> list[int]:
    if isinstance(concept, str):
        if concept not in places:
            raise UnknownName("concept", concept[:100], places)
        return places[concept]
    if not 0 <= concept < count:
        raise InvalidInput(f"Concept {concept} does not exist; there are 0 to {count - 1}.")
    return [concept]


def change_codes(
    codes: Float[Tensor, "n c"], changes: Mapping[int, CodeChange]
) -> Float[Tensor, "n c"]:
    """The codes after the changes; the given ones stay as they are.

    Raises:
        InvalidInput: a scaled code is too large for a 32-bit number.
    """
    changed = codes.clone()
    for concept, change in changes.items():
        changed[:, concept] = codes[:, concept] * change.factor + change.value
    if not torch.isfinite(changed).all():
        raise InvalidInput(f"A scaled code exceeds {_LARGEST:.3g}. Give a smaller factor.")
    return changed


def changed_codes(
    changes: Mapping[int, CodeChange],
    names: Sequence[str],
    before: Float[Tensor, " c"],
    after: Float[Tensor, " c"],
) -> tuple[ChangedCode, ...]:
    """What became of the codes of one image, in the order of the changes."""
    return tuple(
        ChangedCode(
            concept=concept,
            name=names[concept],
            code_before=float(before[concept]),
            code_after=float(after[concept]),
        )
        for concept in changes
    )
