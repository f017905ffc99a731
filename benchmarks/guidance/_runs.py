"""What the benchmarks of guidance share: single runs that stand in a file once they are done."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Row
from dncbm.artifacts import fingerprint, write_json
from dncbm.guidance.recipe import GuideRecipe
from pipelines.guide import guide_stage
from pipelines.workspace import Workspace


def once(folder: Path, name: str, run: Callable[[], Row]) -> Row:
    """The result of an earlier run of this name, or that of running it now."""
    path = folder / f"{name}.json"
    if path.is_file():
        found: Row = json.loads(path.read_text())
        return found
    result = run()
    write_json(path, result)
    print(f"{name}: done", flush=True)
    return result


def guided(folder: Path, name: str, recipe: dict[str, Any]) -> Row:
    """Train with guidance below `folder`; an interrupted run goes on where it was."""
    workspace = Workspace(folder / "runs" / name)
    name = f"{name}-{fingerprint(recipe)[:8]}"  # of other choices, it is another run
    return once(folder, name, lambda: guide_stage(GuideRecipe.of(recipe), workspace))


def baseline(folder: Path, name: str, recipe: dict[str, Any]) -> str:
    """A network trained without guidance, as the model that guidance begins with."""
    plain = recipe | {"weights": [0.0], "tolerance": None, "training": _plain(recipe["training"])}
    guided(folder, name, plain)
    return f"guided:{folder / 'runs' / name}"


def unguided(recipe: dict[str, Any]) -> dict[str, Any]:
    """The control of a guided run: as long, the best classification is kept, nothing guides."""
    training = recipe["training"] | {"loss": "energy"}
    return recipe | {"training": training, "weights": [0.0], "tolerance": None}


def _plain(training: dict[str, Any]) -> dict[str, Any]:
    """As guided, but measured alone: a weight of 0 on a step that never comes costs nothing."""
    return training | {"every": 1_000_000}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in per cent."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{100 * np.mean(values):.1f} ± {100 * deviation:.1f}"


def summary(rows: Sequence[Row], by: Sequence[str]) -> list[Row]:
    """Mean ± standard deviation over seeds of rows that are alike in `by`."""
    kinds: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        kinds.setdefault(tuple(row[name] for name in by), []).append(row)
    return [
        dict(zip(by, kind, strict=True))
        | {"seeds": len(mine)}
        | {name: spread([r[name] for r in mine]) for name in mine[0] if name not in (*by, "seed")}
        for kind, mine in kinds.items()
    ]
