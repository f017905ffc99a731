"""`dncbm diff`: two model directories side by side."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from dncbm.naming.dictionary import load_dictionary
from dncbm.probe.store import load_cbm
from dncbm.registry.diff import LoneConcept, MatchedConcept, ModelParts, diff_models
from pipelines.console import stdout

_SHOWN = 10


def compare(a: Path, b: Path, *, nec: int | None, min_cosine: float) -> dict[str, Any]:
    """What changed from the model in `a` to the one in `b`, as plain values."""
    before, after = (ModelParts(load_dictionary(p / "dictionary"), load_cbm(p / "cbm"))
                     for p in (a, b))  # fmt: skip
    found = diff_models(before, after, nec=nec, min_cosine=min_cosine)
    concepts = found.dictionary
    return {
        "a": str(a),
        "b": str(b),
        "method": concepts.method,
        "accuracy": [
            {"split": item.split, "head": item.head, "before": item.before, "after": item.after,
             "difference": item.difference}
            for item in found.accuracy
        ],
        "classes_gained": list(found.classes_gained),
        "classes_lost": list(found.classes_lost),
        "classes": [
            {"class": item.class_name, "weight_change": item.weight_change,
             "weight_lost": item.weight_lost, "weight_gained": item.weight_gained}
            for item in found.classes
        ],
        "weights": [
            {"class": item.class_name, **_matched(item.concept), "before": item.before,
             "after": item.after, "difference": item.difference}
            for item in found.weights
        ],
        "kept": [_matched(item) for item in concepts.kept],
        "renamed": [_matched(item) for item in concepts.renamed],
        "gained": [_alone(item) for item in concepts.gained],
        "lost": [_alone(item) for item in concepts.lost],
    }  # fmt: skip


def _matched(item: MatchedConcept) -> dict[str, Any]:
    return {
        "concept_a": item.concept_a,
        "concept_b": item.concept_b,
        "name_a": item.name_a,
        "name_b": item.name_b,
        "cosine": item.cosine,
    }


def _alone(item: LoneConcept) -> dict[str, Any]:
    return {"concept": item.concept, "name": item.name, "cosine": item.cosine}


def show_comparison(found: dict[str, Any]) -> None:
    """Print the difference: totals, then what changed most."""
    for item in found["accuracy"]:
        if item["split"] == "test" or len(found["accuracy"]) == 1:
            line = f"accuracy, {item['split']}, {item['head']}: "
            line += f"{item['before']:.2%} to {item['after']:.2%} ({item['difference']:+.2%})"
            stdout.print(line)
    for change in ("gained", "lost"):
        names = found[f"classes_{change}"]
        if names:
            stdout.print(Text(f"classes {change}: {', '.join(names)}"))
    totals = ", ".join(f"{len(found[key])} {key}" for key in ("kept", "renamed", "gained", "lost"))
    stdout.print(f"concepts: {totals}")
    for item in found["renamed"][:_SHOWN]:
        stdout.print(Text(f"  {item['name_a']} is now {item['name_b']} ({item['cosine']:.2f})"))
    if found["weights"]:
        _show_weights(found["weights"][:_SHOWN])


def _show_weights(changes: list[dict[str, Any]]) -> None:
    table = Table(title="Weights that changed most", box=None, pad_edge=False)
    for column in ("class", "concept", "before", "after"):
        table.add_column(column, justify="left" if column in ("class", "concept") else "right")
    for item in changes:
        name = item["name_a"]
        name += "" if item["name_b"] == name else f" / {item['name_b']}"
        numbers = (f"{item['before']:+.3f}", f"{item['after']:+.3f}")
        table.add_row(Text(item["class"]), Text(name), *numbers)
    stdout.print(table)
