"""What an edit costs: accuracy before and after on the validation images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dncbm.curation.apply import Edited, apply, same_weights
from dncbm.curation.data import ModelData, heads
from dncbm.curation.operations import Operation, Remove
from dncbm.errors import Unavailable
from dncbm.probe.interventions import without
from dncbm.probe.metrics import accuracy, confusion, probe_logits
from dncbm.probe.splits import Split


def evaluate(
    before: Edited, operations: Sequence[Operation], data: ModelData
) -> tuple[Edited, dict[str, Any]]:
    """The edited model, calibrated, and its evaluation as plain values.

    `per_class` and the accuracies are those of the dense head; `heads` has the others. `removals`
    tells what each removal costs by itself, before any refit: the accuracy that is lost (gained
    where negative). An edit of names alone changes no decision; where the model has no embeddings
    it is evaluated as such, with `images` 0.

    Raises:
        Unavailable: decisions change, and the embeddings of the model are gone.
        InvalidInput: decisions change, and there are no validation images.
    """
    after = apply(before, operations, data.refit)
    unchanged = same_weights(before.cbm, after.cbm)
    try:
        split = data.validation if not unchanged else data.splits.validation
    except Unavailable:
        if not unchanged:
            raise
        split = None
    if not unchanged:
        after = Edited(data.recalibrated(after.cbm), after.dictionary, after.removed, after.hidden)
    found = {"temperatures": after.cbm.temperatures, **_measured(before, after, split)}
    removed = [one.concept for one in operations if isinstance(one, Remove)]
    return after, found | {"removals": _costs(before, list(dict.fromkeys(removed)), split)}


def _measured(before: Edited, after: Edited, split: Split | None) -> dict[str, Any]:
    if split is None:
        nothing = {"accuracy_before": None, "accuracy_after": None}
        return {"split": "validation", "images": 0, **nothing, "per_class": [], "heads": []}
    per_head = [
        {"head": name, **_accuracies(probe_logits(old, split.matrix), new, split)}
        for (name, old), new in zip(
            heads(before.cbm).items(), heads(after.cbm).values(), strict=True
        )
    ]
    overall = {k: v for k, v in per_head[0].items() if k != "head"}
    return {
        "split": "validation",
        "images": len(split.labels),
        **overall,
        "per_class": _per_class(before, after, split),
        "heads": per_head,
    }


def _accuracies(old: np.ndarray, new: Any, split: Split) -> dict[str, float]:
    return {
        "accuracy_before": accuracy(old, split.labels),
        "accuracy_after": accuracy(probe_logits(new, split.matrix), split.labels),
    }


def _per_class(before: Edited, after: Edited, split: Split) -> list[dict[str, Any]]:
    """Per class that occurs, its images and the share of them that is classified right."""
    old, new = (
        confusion(probe_logits(one.cbm.probe, split.matrix), split.labels)
        for one in (before, after)
    )
    images = old.sum(axis=1)
    return [
        {
            "class": name,
            "images": int(images[k]),
            "accuracy_before": float(old[k, k] / images[k]),
            "accuracy_after": float(new[k, k] / images[k]),
        }
        for k, name in enumerate(before.cbm.classes)
        if images[k]
    ]


def _costs(before: Edited, removed: Sequence[int], split: Split | None) -> list[dict[str, Any]]:
    """Per removed concept the accuracy that the dense head loses without it alone."""
    if split is None:
        return []
    head = before.cbm.probe
    right = accuracy(probe_logits(head, split.matrix), split.labels)
    found = []
    for concept in removed:
        left = accuracy(probe_logits(without(head, [concept]), split.matrix), split.labels)
        name = before.dictionary.names[concept].name
        found.append({"concept": concept, "name": name, "cost": right - left})
    return found
