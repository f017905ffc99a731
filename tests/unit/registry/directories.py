"""Model directories of a few bytes, with true manifests."""

import json
from pathlib import Path
from typing import Any

from dncbm.artifacts import create_artifact, load_manifest

ENCODER, SOURCE = "e" * 64, "d" * 64


def write_part(folder: Path, kind: Any, inputs: dict[str, str], content: str = "") -> str:
    """An artifact of one small file; its fingerprint."""
    config = {"seed": 7} | ({"encoder": "mini"} if kind in ("cbm", "embeddings") else {})
    with create_artifact(folder / kind, kind, config=config, inputs=inputs) as draft:
        (draft.path / "data.txt").write_text(content or kind)
        draft.metrics["accuracy"] = {"test": {"dense": 0.5}}
    return load_manifest(folder / kind, kind).fingerprint


def write_model(folder: Path, content: str = "a", kinds: tuple[str, ...] = ()) -> dict[str, str]:
    """A finished model; models of other `content` differ in autoencoder and all after it."""
    made = {"encoder": ENCODER}
    made["embeddings"] = write_part(folder, "embeddings", {**made, "source": SOURCE})
    made["sae"] = write_part(folder, "sae", dict(made), content)
    made["dictionary"] = write_part(folder, "dictionary", dict(made))
    made["cbm"] = write_part(folder, "cbm", dict(made))
    for kind in kinds:
        made[kind] = write_part(folder, kind, dict(made))
    return made


def rewrite_manifest(path: Path, **changes: Any) -> None:
    """Change fields of a manifest without making it true again."""
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
