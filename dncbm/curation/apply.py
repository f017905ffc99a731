"""A model after an edit, as a pure function of the model before and the operations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, final

import torch

from dncbm.curation.operations import (
    Block,
    Merge,
    Operation,
    Refit,
    Remove,
    Rename,
    SetWeight,
    check_operations,
    removed_already,
)
from dncbm.errors import InvalidInput
from dncbm.naming.dictionary import Dictionary
from dncbm.probe.interventions import without
from dncbm.probe.model import Probe
from dncbm.probe.store import Cbm
from dncbm.types import ConceptName


@final
@dataclass(frozen=True, slots=True, eq=False)
class Edited:
    """A model and what edits have taken from it so far."""

    cbm: Cbm
    dictionary: Dictionary
    removed: frozenset[int] = field(default_factory=frozenset)
    """Concepts that no class may use."""
    hidden: frozenset[int] = field(default_factory=frozenset)
    """Concepts that lists and search leave out."""


Refitting: TypeAlias = Callable[[Cbm, frozenset[int]], Cbm]
"""All heads fitted again without the removed concepts."""


def no_refit(cbm: Cbm, removed: frozenset[int]) -> Cbm:
    """For where there are no training codes.

    Raises:
        InvalidInput: always.
    """
    raise InvalidInput(
        "A refit needs the training embeddings of the model, which were not given. Leave refit "
        "out, or apply the edit where the directory `embeddings` lies beside the model."
    )


def apply(model: Edited, operations: Sequence[Operation], refit: Refitting = no_refit) -> Edited:
    """The model after the operations, one after the other; the given one stays as it is.

    `apply(apply(m, a), b)` equals `apply(m, a + b)`. Temperatures are those of the heads before,
    but for a refit; `recalibrated` fits them to the new weights.

    Raises:
        InvalidInput: a concept that does not exist, or a weight for a removed one.
        UnknownName: a class that does not exist.
    """
    check_operations(
        operations, classes=model.cbm.classes, num_concepts=model.cbm.probe.num_concepts
    )
    last = max((i for i, one in enumerate(operations) if isinstance(one, Refit)), default=-1)
    for index, operation in enumerate(operations):
        if isinstance(operation, Refit) and index < last:
            continue  # the last one replaces all weights of this one
        model = _applied(model, operation, refit)
    return model


def _applied(model: Edited, operation: Operation, refit: Refitting) -> Edited:
    match operation:
        case Remove(concept):
            return _removed(model, concept)
        case Block(concept):
            names = _called(model.dictionary.names, [concept], None)
            return replace(model, dictionary=_with(model, names), hidden=model.hidden | {concept})
        case Rename(concept, name):
            return _renamed(model, [concept], name)
        case Merge(concepts, name):
            return _renamed(model, list(concepts), name)
        case SetWeight():
            return replace(model, cbm=_weighted(model, operation))
        case Refit():
            return replace(model, cbm=refit(model.cbm, model.removed))


def _removed(model: Edited, concept: int) -> Edited:
    names = _called(model.dictionary.names, [concept], None)
    return replace(
        model,
        cbm=_each_head(model.cbm, lambda head: without(head, [concept])),
        dictionary=_with(model, names),
        removed=model.removed | {concept},
    )


def _renamed(model: Edited, concepts: list[int], name: str) -> Edited:
    names = _called(model.dictionary.names, concepts, name)
    return replace(model, dictionary=_with(model, names), hidden=model.hidden - frozenset(concepts))


def _weighted(model: Edited, operation: SetWeight) -> Cbm:
    if operation.concept in model.removed:
        raise removed_already(operation.concept)
    row, column = model.cbm.classes.index(operation.class_name), operation.concept

    def changed(head: Probe) -> Probe:
        # A sparse head that does not use the concept there keeps its number of concepts.
        if head is not model.cbm.probe and head.weights[row, column] == 0:
            return head
        weights = head.weights.clone()
        weights[row, column] = operation.weight
        return replace(head, weights=weights)

    return _each_head(model.cbm, changed)


def _each_head(cbm: Cbm, change: Callable[[Probe], Probe]) -> Cbm:
    heads = {nec: change(head) for nec, head in cbm.nec_probes.items()}
    return replace(cbm, probe=change(cbm.probe), nec_probes=heads)


def _with(model: Edited, names: list[ConceptName]) -> Dictionary:
    return replace(model.dictionary, names=names)


def _called(
    names: Sequence[ConceptName], concepts: Sequence[int], name: str | None
) -> list[ConceptName]:
    """The names after some concepts got another one, or (None) lost theirs.

    The old name stays among the alternatives, with its score; nobody has scored the new one.
    """
    mates = {c for c, one in enumerate(names) if one.name == name}.difference(concepts)
    found = list(names)
    for concept in concepts:
        old = names[concept]
        kept = ((old.name, old.score),) if old.status == "named" and old.name != name else ()
        found[concept] = replace(
            old,
            name=f"concept {concept}" if name is None else name,
            status="blocked" if name is None else "named",
            score=math.nan,
            margin=math.nan,
            alternatives=(*kept, *old.alternatives),
        )
    own = {concept: -1 - (0 if name else concept) for concept in concepts}
    joined = {names[mate].group for mate in mates}
    labels = [own.get(c, -1 if one.group in joined else one.group) for c, one in enumerate(names)]
    return _regrouped(found, labels)


def _regrouped(names: Sequence[ConceptName], labels: Sequence[int]) -> list[ConceptName]:
    """Groups of those with one label, called by the lowest concept in them."""
    lowest: dict[int, int] = {}
    for concept, label in enumerate(labels):
        lowest.setdefault(label, concept)
    groups = [lowest[label] for label in labels]
    return [
        one if one.group == group else replace(one, group=group)
        for one, group in zip(names, groups, strict=True)
    ]


def same_weights(one: Cbm, other: Cbm) -> bool:
    """Whether both give every logit of every head alike, bit for bit."""
    heads = [(one.probe, other.probe)]
    heads += [(one.nec_probes[nec], other.nec_probes[nec]) for nec in one.nec_probes]
    return all(torch.equal(a.weights, b.weights) and torch.equal(a.bias, b.bias) for a, b in heads)
