"""Stage 2: embeddings to a sparse autoencoder, whose decoder rows are the concepts."""

import numpy as np

from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.errors import InvalidInput
from dncbm.sae.config import SaeConfig
from dncbm.sae.presets import preset
from dncbm.sae.rows import ShardRows
from dncbm.sae.store import LoadedSae, load_sae, save_sae
from dncbm.sae.train import train_sae
from dncbm.training.progress import Progress, no_progress
from pipelines.recipes import Recipe
from pipelines.workspace import Workspace, is_current


def discover_stage(
    recipe: Recipe,
    embeddings: EmbeddingsArtifact,
    workspace: Workspace,
    progress: Progress = no_progress,
) -> LoadedSae:
    """Train the autoencoder on the train rows, or read the one this recipe already made."""
    rows = train_rows(embeddings)
    config = sae_config(recipe, embeddings.embed_dim, len(rows))
    inputs = {
        "embeddings": embeddings.manifest.fingerprint,
        "encoder": embeddings.manifest.inputs["encoder"],
    }
    if not is_current(workspace.sae, "sae", {"training": config.as_dict()}, inputs):
        trained = train_sae(
            ShardRows(embeddings.shards, rows),
            config,
            checkpoint=workspace.checkpoint("discover"),
            progress=progress,
        )
        save_sae(workspace.sae, trained, config=config, inputs=inputs)
    return load_sae(workspace.sae)


def sae_config(recipe: Recipe, embed_dim: int, num_rows: int) -> SaeConfig:
    """The autoencoder's configuration that a recipe asks for."""
    choices = {"seed": recipe.seed, **recipe.sae}
    return preset(recipe.sae_preset, embed_dim=embed_dim, num_rows=num_rows, **choices)


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
