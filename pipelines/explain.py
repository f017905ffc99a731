"""Photos to maps on disk: a picture of each decision, and the numbers behind it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from dncbm.artifacts import writing
from dncbm.predictor import Predictor
from dncbm.report.maps import montage
from dncbm.types import Attribution
from pipelines.targets import Targets


def explain_photo(
    predictor: Predictor, name: str, photo: Image, targets: Targets, out: Path
) -> dict[str, Any]:
    """Write `NAME.png` (a montage) and `NAME.npz` (maps and values); returns what they show."""
    [items] = predictor.explain(
        [photo],
        classes=targets.classes,
        concepts=targets.concepts,
        texts=targets.texts,
        top=targets.top,
        nec=targets.nec,
    )
    out.mkdir(parents=True, exist_ok=True)
    picture, numbers = out / f"{name}.png", out / f"{name}.npz"
    with writing(picture):
        montage([(predictor.seen(photo), items)]).savefig(picture, dpi=120)
    with writing(numbers):
        np.savez_compressed(
            numbers,
            maps=np.stack([item.map for item in items]),
            values=np.array([item.value for item in items]),
            names=np.array([item.name for item in items]),
        )
    return {
        "picture": str(picture),
        "maps": str(numbers),
        "attributions": [attribution_dict(item) for item in items],
    }


def attribution_dict(item: Attribution) -> dict[str, Any]:
    """An attribution without its pixels, as plain values."""
    names = ("kind", "name", "index", "value", "position", "bias", "method", "exact")
    return {name: getattr(item, name) for name in names} | {"map_sum": float(item.map.sum())}


def file_names(paths: Sequence[Path]) -> list[str]:
    """A name for each photo's files: its own, with a number where two photos share it."""
    seen: dict[str, int] = {}
    found = []
    for path in paths:
        count = seen[path.stem] = seen.get(path.stem, 0) + 1
        found.append(path.stem if count == 1 else f"{path.stem}-{count}")
    return found
