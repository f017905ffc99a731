"""Stage 2: embeddings to a sparse autoencoder, whose decoder rows are the concepts."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from dncbm.artifacts import fingerprint, seal
from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.errors import InvalidInput
from dncbm.recipes import Recipe, sae_config
from dncbm.sae.config import SaeConfig
from dncbm.sae.geometry import stability
from dncbm.sae.metrics import evaluate_sae
from dncbm.sae.model import SaeModel
from dncbm.sae.rows import ShardRows
from dncbm.sae.store import LoadedSae, load_sae, save_sae
from dncbm.sae.train import TrainedSae, train_sae
from dncbm.training.devices import resolve_device
from dncbm.training.progress import Progress, no_progress
from pipelines.ray_training import train_sae_on_ray
from pipelines.workspace import Workspace, is_current


def discover_stage(
    recipe: Recipe,
    embeddings: EmbeddingsArtifact,
    workspace: Workspace,
    progress: Progress = no_progress,
) -> LoadedSae:
    """Train the autoencoder on the train rows, or read the one this recipe already made."""
    config = sae_config(recipe, embeddings.embed_dim, len(train_rows(embeddings)))
    inputs = {
        "embeddings": embeddings.manifest.fingerprint,
        "encoder": embeddings.manifest.inputs["encoder"],
    }
    train = partial(_train, recipe, embeddings, inputs, workspace, progress)
    if not is_current(workspace.sae, "sae", {"training": config.as_dict()}, inputs):
        trained = train(config)
        save_sae(
            workspace.sae,
            trained,
            config=config,
            inputs=inputs,
            metrics={"held_out": held_out_metrics(embeddings, trained.model)},
        )
    sae = load_sae(workspace.sae)
    if recipe.stability and stability_of(sae).get("seeds") != recipe.stability:
        others = [replace(config, seed=config.seed + i) for i in range(1, recipe.stability)]
        sae = record_stability(workspace, sae, [train(other).model for other in others])
    workspace.discard("discover")
    return sae


def _train(
    recipe: Recipe,
    embeddings: EmbeddingsArtifact,
    inputs: dict[str, str],
    workspace: Workspace,
    progress: Progress,
    config: SaeConfig,
) -> TrainedSae:
    """Train with a checkpoint of its own, from which a killed run goes on."""
    mark = fingerprint([config.as_dict(), inputs])[:12]
    checkpoint, device = workspace.checkpoint(f"discover-{mark}"), resolve_device(recipe.device)
    rows = train_rows(embeddings)
    if recipe.train_workers:
        return train_sae_on_ray(
            embeddings.path,
            rows,
            config,
            checkpoint=checkpoint,
            workers=recipe.train_workers,
            gpu=device.startswith("cuda"),
            progress=progress,
        )
    return train_sae(
        ShardRows(embeddings.shards, rows),
        config,
        checkpoint=checkpoint,
        device=device,
        progress=progress,
    )


def stability_of(sae: LoadedSae) -> dict[str, Any]:
    """What other seeds found of this dictionary; {} where it was not measured."""
    return sae.manifest.metrics.get("stability") or {}


def record_stability(workspace: Workspace, sae: LoadedSae, others: Sequence[SaeModel]) -> LoadedSae:
    """Add the likeness of this dictionary and those of other seeds to the manifest.

    The artifact's fingerprint stays: it is the same autoencoder, known better.
    """
    found = stability([sae.model.dictionary, *(model.dictionary for model in others)])
    manifest = sae.manifest
    seal(
        workspace.sae,
        "sae",
        config=manifest.config,
        inputs=manifest.inputs,
        metrics=manifest.metrics | {"stability": found.as_dict()},
    )
    return load_sae(workspace.sae)


def held_out_metrics(embeddings: EmbeddingsArtifact, model: SaeModel) -> dict[str, Any] | None:
    """Quality on the rows that did not train the autoencoder; None where all did."""
    rows = np.sort(np.concatenate([embeddings.rows(split) for split in ("validation", "test")]))
    if len(rows) < 2 or not len(embeddings.rows("train")):
        return None
    return evaluate_sae(model, ShardRows(embeddings.shards, rows)).as_dict()


def train_rows(embeddings: EmbeddingsArtifact) -> np.ndarray:
    """Rows of the train split; all rows where the photos have no splits."""
    rows = embeddings.rows("train")
    rows = rows if len(rows) else embeddings.rows()
    if len(rows) < 2:
        raise InvalidInput(
            f"{embeddings.path} has {len(rows)} usable train embeddings; discovery needs at "
            "least 2. Add photos."
        )
    return rows
