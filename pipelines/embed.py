"""Stage 1: photos to embeddings."""

from collections import Counter
from pathlib import Path

from dncbm.data.sources import ImageSource, open_source
from dncbm.data.splits import assign_splits
from dncbm.encoders.cache import EmbedConfig, EmbeddingsArtifact, embed
from dncbm.encoders.clip import Encoder
from dncbm.errors import InvalidInput
from dncbm.training.progress import Progress, no_progress
from pipelines.engine import find_engine
from pipelines.recipes import Recipe


def open_recipe_source(recipe: Recipe) -> ImageSource:
    """The photos that a recipe names."""
    if recipe.dataset is not None:
        return open_source(recipe.dataset, dataset=True)
    if recipe.data is not None:
        return open_source(recipe.data)
    raise InvalidInput("No photos given. Use --data PATH or --dataset NAME.")


def split_records(source: ImageSource, seed: int) -> list[str]:
    """Train, validation or test for each record: as shipped where given, else stratified."""
    return assign_splits(
        [record.label for record in source.records],
        [record.split for record in source.records],
        seed=seed,
    )


def require_classes(source: ImageSource, splits: list[str]) -> None:
    """Refuse photos that no classifier can be trained and tested on, before any work is done."""
    labels = [record.label for record in source.records]
    classes = sorted({label for label in labels if label is not None})
    if len(classes) < 2:
        found = f"one class ({classes[0]!r})" if classes else "no class labels"
        raise InvalidInput(
            f"The photos have {found}; a classifier needs at least two classes. Put each class "
            "into a folder of its own, or use `dncbm embed`, `discover` and `name` to find "
            "concepts without a classifier."
        )
    tested = Counter(
        label for label, split in zip(labels, splits, strict=True) if label and split == "test"
    )
    untested = [name for name in classes if not tested[name]]
    if untested:
        raise InvalidInput(
            f"No test photo for {', '.join(map(repr, untested[:5]))}: each class needs at least "
            "3 photos, so that some can be held out (or a test folder of your own)."
        )


def embed_stage(
    recipe: Recipe,
    source: ImageSource,
    encoder: Encoder,
    out: Path,
    progress: Progress = no_progress,
) -> EmbeddingsArtifact:
    """Embed every photo of the source; finished shards of an earlier run are kept."""
    return embed(
        source,
        encoder,
        out,
        splits=split_records(source, recipe.seed),
        config=EmbedConfig(
            batch_size=recipe.batch_size, num_workers=recipe.workers, backend=recipe.backend
        ),
        progress=progress,
        engine=find_engine(recipe.engine),
    )
