"""What an edit may do to a model, one value per operation, as read from JSON."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch

from dncbm.errors import InvalidInput, UnknownName

MOST_OPERATIONS = 1000
"""In one edit."""
LONGEST_NAME = 200
_LARGEST = float(torch.finfo(torch.float32).max)


@final
@dataclass(frozen=True, slots=True)
class Remove:
    """No class may use the concept: its weight is 0 in every class of every head."""

    concept: int


@final
@dataclass(frozen=True, slots=True)
class Rename:
    """The concept gets another name; no number changes."""

    concept: int
    name: str


@final
@dataclass(frozen=True, slots=True)
class Merge:
    """The concepts get one name and one group, and count as one where names are added up."""

    concepts: tuple[int, ...]
    name: str


@final
@dataclass(frozen=True, slots=True)
class Block:
    """People see the concept's index in place of its name, and no list or search shows it."""

    concept: int


@final
@dataclass(frozen=True, slots=True)
class SetWeight:
    """The weight of a concept for a class, in the dense head and in those that use it there."""

    class_name: str
    concept: int
    weight: float


@final
@dataclass(frozen=True, slots=True)
class Refit:
    """All heads are fitted again on the training codes without the removed concepts."""


Operation: TypeAlias = Remove | Rename | Merge | Block | SetWeight | Refit

_FIELDS: dict[str, tuple[str, ...]] = {
    "remove": ("concept",),
    "rename": ("concept", "name"),
    "merge": ("concepts", "name"),
    "block": ("concept",),
    "set_weight": ("class", "concept", "weight"),
    "refit": (),
}


def parse_operations(items: Any) -> tuple[Operation, ...]:
    """Operations from JSON values such as `{"op": "remove", "concept": 17}`.

    Raises:
        InvalidInput: not a list of such objects, an empty or a very long one, or a weight that a
            later refit would overwrite.
        UnknownName: no such operation.
    """
    if not isinstance(items, list | tuple) or not 1 <= len(items) <= MOST_OPERATIONS:
        raise InvalidInput(
            f"operations must be a list of 1 to {MOST_OPERATIONS} objects such as "
            f'{{"op": "remove", "concept": 17}}, got {str(items)[:60]}.'
        )
    found = tuple(_parsed(item) for item in items)
    _check_order(found)
    return found


def _parsed(item: Any) -> Operation:
    if not isinstance(item, Mapping) or not isinstance(item.get("op"), str):
        raise InvalidInput(
            f"The operation {str(item)[:100]} is not an object with a text `op`, such as "
            '{"op": "remove", "concept": 17}.'
        )
    kind = item["op"]
    if kind not in _FIELDS:
        raise UnknownName("operation", kind[:100], _FIELDS)
    if set(item) != {"op", *_FIELDS[kind]}:
        wanted = ", ".join(_FIELDS[kind]) or "nothing else"
        given = ", ".join(str(key)[:40] for key in list(item)[:10] if key != "op") or "nothing"
        raise InvalidInput(f"The operation {kind} takes {wanted}; given: {given}.")
    return _made(kind, item)


def _made(kind: str, item: Mapping[str, Any]) -> Operation:
    match kind:
        case "remove":
            return Remove(_index(item["concept"]))
        case "block":
            return Block(_index(item["concept"]))
        case "rename":
            return Rename(_index(item["concept"]), _name(item["name"]))
        case "merge":
            return Merge(_indices(item["concepts"]), _name(item["name"]))
        case "set_weight":
            return SetWeight(
                _class(item["class"]), _index(item["concept"]), _weight(item["weight"])
            )
        case _:
            return Refit()


def operation_json(operation: Operation) -> dict[str, Any]:
    """The operation as `parse_operations` reads it."""
    match operation:
        case Remove(concept):
            return {"op": "remove", "concept": concept}
        case Block(concept):
            return {"op": "block", "concept": concept}
        case Rename(concept, name):
            return {"op": "rename", "concept": concept, "name": name}
        case Merge(concepts, name):
            return {"op": "merge", "concepts": list(concepts), "name": name}
        case SetWeight(class_name, concept, weight):
            return {"op": "set_weight", "class": class_name, "concept": concept, "weight": weight}
        case Refit():
            return {"op": "refit"}


def check_operations(
    operations: Sequence[Operation], *, classes: Sequence[str], num_concepts: int
) -> None:
    """Refuse operations on what a model does not have.

    Raises:
        InvalidInput: a concept that does not exist.
        UnknownName: no class of that name; the message lists the nearest.
    """
    for operation in operations:
        for concept in _concepts(operation):
            if concept >= num_concepts:
                raise InvalidInput(
                    f"Concept {concept} does not exist; the model has concepts 0 to "
                    f"{num_concepts - 1}."
                )
        if isinstance(operation, SetWeight) and operation.class_name not in classes:
            raise UnknownName("class", operation.class_name, classes)


def _concepts(operation: Operation) -> tuple[int, ...]:
    if isinstance(operation, Merge):
        return operation.concepts
    return () if isinstance(operation, Refit) else (operation.concept,)


def _check_order(operations: Sequence[Operation]) -> None:
    """A removed concept has no weight to set, and a refit replaces what was set before."""
    removed: set[int] = set()
    weighted: SetWeight | None = None
    for operation in operations:
        match operation:
            case Remove(concept):
                removed.add(concept)
            case SetWeight(_, concept, _) if concept in removed:
                raise removed_already(concept)
            case SetWeight():
                weighted = operation
            case Refit() if weighted is not None:
                raise InvalidInput(
                    f"The weight of concept {weighted.concept} for {weighted.class_name!r} is set "
                    "before a refit, which would overwrite it. Put set_weight after refit."
                )


def removed_already(concept: int) -> InvalidInput:
    """The error for giving a weight to a removed concept."""
    return InvalidInput(
        f"Concept {concept} is removed, so its weight is 0 and cannot be set. Leave out one of "
        "the two operations, or revert the edit that removed it."
    )


def _index(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise InvalidInput(
            f"concept must be the index of a concept, 0 or more, got {str(value)[:60]!r}."
        )
    return value


def _indices(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"concepts must be a list of indices, got {str(value)[:60]!r}.")
    found = tuple(_index(item) for item in value)
    if len(found) < 2 or len(set(found)) != len(found):
        raise InvalidInput(f"A merge takes two or more different concepts, got {str(value)[:60]}.")
    return found


def _name(value: Any) -> str:
    """Text as a person reads it: composed, no control characters, no space around it."""
    if not isinstance(value, str):
        raise InvalidInput(f"name must be text, got {str(value)[:60]!r}.")
    name = unicodedata.normalize("NFC", value).strip()
    wrong = [letter for letter in name if unicodedata.category(letter) in ("Cc", "Cs")]
    if not 1 <= len(name) <= LONGEST_NAME or wrong:
        raise InvalidInput(
            f"The name {value[:60]!r} cannot be used: a name has 1 to {LONGEST_NAME} characters, "
            "none of them a control character."
        )
    return name


def _class(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"class must be the name of a class, got {str(value)[:60]!r}.")
    return value


def _weight(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # The comparison comes first: an integer of very many digits is no float.
    if not number or not -_LARGEST <= value <= _LARGEST or not math.isfinite(value):
        raise InvalidInput(
            f"weight must be a finite number, got {str(value)[:60]!r}; its size is at most "
            f"{_LARGEST:.3g}."
        )
    return float(value)
