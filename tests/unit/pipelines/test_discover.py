from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from dncbm.artifacts import Manifest
from dncbm.data.planted import planted_dictionary, planted_embeddings
from dncbm.encoders.artifact import ITEMS_SCHEMA, EmbeddingsArtifact
from dncbm.errors import InvalidInput
from pipelines.discover import discover_stage, stability_of
from pipelines.recipes import Recipe
from pipelines.workspace import Workspace

ROWS = 240
RECIPE = Recipe(sae={"num_concepts": 24, "epochs": 8}, device="cpu")


def embedded() -> EmbeddingsArtifact:
    """Embeddings of a planted dictionary, as a stage before would leave them."""
    embeddings, _ = planted_embeddings(
        planted_dictionary(24, 8, seed=0), ROWS, active=2, noise=0.1, seed=0
    )
    splits = ["test" if row % 4 == 0 else "train" for row in range(ROWS)]
    items = {
        "id": [str(row) for row in range(ROWS)],
        "label": ["a"] * ROWS,
        "split": splits,
        "row": range(ROWS),
    }
    table = pa.table(
        {name: pa.array(items.get(name, [None] * ROWS), type) for name, type in _columns()}
    )
    manifest = Manifest(
        kind="embeddings",
        format_version=2,
        dncbm_version="0",
        config={},
        inputs={"encoder": "e"},
        files={},
        metrics={},
        created="",
    )
    return EmbeddingsArtifact(Path("none"), manifest, table, [embeddings.numpy()])


def _columns() -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in ITEMS_SCHEMA]


class Steps:
    """Counts the trainings that a stage reports."""

    def __init__(self) -> None:
        self.trainings = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.trainings += stage == "sae" and done == total


def test_every_metric_is_in_the_manifest(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    sae = discover_stage(RECIPE, embedded(), workspace)
    metrics = sae.manifest.metrics
    for measured in (metrics, metrics["held_out"]):
        assert {"unexplained_variance", "cosine", "l0", "dead_fraction", "dense_fraction"} <= set(
            measured
        )
        assert -1 <= measured["monosemanticity"] <= 1
        assert measured["monosemanticity_baseline"] < measured["monosemanticity"]
        assert 0 < measured["cknna"] < 1
        assert 0 < measured["coherence_mean"] < measured["coherence_max"] <= 1
        assert sum(measured["density_histogram"]) == 24
    assert metrics["held_out"]["rows"] == ROWS / 4
    assert stability_of(sae) == {}


def test_stability_is_added_to_the_same_autoencoder(tmp_path: Path) -> None:
    workspace, embeddings, steps = Workspace(tmp_path).create(), embedded(), Steps()
    plain = discover_stage(RECIPE, embeddings, workspace, steps)
    compared = discover_stage(replace(RECIPE, stability=3), embeddings, workspace, steps)
    assert steps.trainings == 3
    assert compared.manifest.fingerprint == plain.manifest.fingerprint
    found = stability_of(compared)
    assert found["seeds"] == 3
    assert 0 < found["chance"] < 1  # so few steps need not beat it
    assert 0 < found["matched_cosine"] <= found["nearest_cosine"] <= 1
    assert {**compared.manifest.metrics, "stability": None} == {
        **plain.manifest.metrics,
        "stability": None,
    }
    again = discover_stage(replace(RECIPE, stability=3), embeddings, workspace, steps)
    assert steps.trainings == 3
    assert stability_of(again) == found
    assert not list(workspace.work.glob("discover*"))


def test_one_autoencoder_is_not_stable_or_unstable() -> None:
    with pytest.raises(InvalidInput, match="stability is 1"):
        Recipe(stability=1)
