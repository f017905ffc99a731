"""The one training loop of all variants, for one autoencoder or several in one pass.

A run is a pure function of rows and configuration: the order of rows and every random draw
come from generators named after epoch and purpose, so a run that was killed continues from
its checkpoint file to the same bits (on one device with the same number of threads).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dncbm.artifacts import fingerprint
from dncbm.errors import InvalidInput
from dncbm.sae.batches import Batches
from dncbm.sae.config import SaeConfig
from dncbm.sae.metrics import SaeMetrics, evaluate_sae
from dncbm.sae.model import SaeModel
from dncbm.sae.rows import EmbeddingRows, InputStatistics, as_rows, input_statistics
from dncbm.sae.run import TrainingRun
from dncbm.training.progress import Progress, no_progress
from dncbm.training.workers import current_workers

__all__ = [
    "SaeConfig",
    "TrainedSae",
    "TrainingRun",
    "train_sae",
    "train_sweep",
    "train_to_checkpoint",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedSae:
    """What training leaves: the model of the last step, its quality and its course."""

    model: SaeModel
    metrics: SaeMetrics
    history: list[dict[str, float]] = field(default_factory=list)
    """Per epoch: mean loss terms, mean L0, share of concepts that did not fire, resampled."""


def train_sae(
    embeddings: Any,
    config: SaeConfig,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 250,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> TrainedSae:
    """Train a sparse autoencoder; the model of the last step is returned in evaluation mode.

    Where `torch.distributed` runs (torchrun, Ray Train), its processes share every batch and
    all return the same model; they must be given the same rows and configuration.

    Args:
        embeddings: `EmbeddingRows`, a tensor or array (n, d), or a list of mapped shards.
        config: the whole recipe.
        checkpoint: file to continue from and to write to; deleted by nobody, so a finished
            run that is called again returns at once. It may be continued with another number of
            processes.
        checkpoint_every: steps between writes of it; the last step always writes.
        device: where to compute.
        progress: told `("sae", step, total)`.

    Raises:
        InvalidInput: fewer than two rows, wrong width, NaN or infinite values, or a loss that
            is no longer finite.
        Unavailable: the checkpoint cannot be written.
        ArtifactMismatch: the checkpoint belongs to another configuration or other rows.
    """
    run = _advance(as_rows(embeddings), [config], [checkpoint], checkpoint_every, device, progress)[
        0
    ]
    return _trained(run)


def train_to_checkpoint(
    embeddings: Any,
    config: SaeConfig,
    checkpoint: Path,
    *,
    checkpoint_every: int = 250,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> None:
    """As `train_sae`, but leaves only the file, from which `train_sae` returns at once."""
    rows = as_rows(embeddings)
    _advance(rows, [config], [checkpoint], checkpoint_every, device, progress)


def train_sweep(
    embeddings: Any,
    configs: Sequence[SaeConfig],
    *,
    checkpoints: Sequence[Path] | None = None,
    checkpoint_every: int = 250,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> list[TrainedSae]:
    """Several widths, k or variants in one pass over the data: every batch is read once.

    Each result has the same bits as from `train_sae` alone.

    Args:
        embeddings: as for `train_sae`.
        configs: one per autoencoder, of one seed and batch size; budgets may differ.
        checkpoints: one file per configuration, see `train_sae`.
        checkpoint_every: as for `train_sae`.
        device: as for `train_sae`.
        progress: told `("sae", steps of all runs so far, total)`.

    Raises:
        InvalidInput: no configuration, seeds or batch sizes that differ; and as `train_sae`.
        Unavailable: as `train_sae`.
        ArtifactMismatch: as `train_sae`.
    """
    kinds = {(config.seed, config.batch_size) for config in configs}
    if len(kinds) != 1 or (checkpoints is not None and len(checkpoints) != len(configs)):
        raise InvalidInput(
            f"A sweep has {len(configs)} configurations with {len(kinds)} pairs of seed and batch "
            "size; the rule is at least one configuration, all with the same batches, and a "
            "checkpoint for each. Train others on their own."
        )
    files: Sequence[Path | None] = checkpoints or [None] * len(configs)
    runs = _advance(as_rows(embeddings), configs, files, checkpoint_every, device, progress)
    return [_trained(run) for run in runs]


def _advance(
    rows: EmbeddingRows,
    configs: Sequence[SaeConfig],
    checkpoints: Sequence[Path | None],
    every: int,
    device: str,
    progress: Progress,
) -> list[TrainingRun]:
    """All runs at their last step; they take their steps together, from the same batches."""
    for config in configs:
        _check_width(rows, config)
    workers = current_workers()
    statistics = lru_cache(lambda normalize: input_statistics(rows, normalize=normalize))
    longest = max(configs, key=lambda config: config.total_steps(len(rows)))
    batches = Batches(rows, longest, workers, pin=torch.device(device).type == "cuda")
    runs = [
        TrainingRun(rows, config, statistics(config.normalize), device, workers, batches)
        for config in configs
    ]
    kept = [_Kept(run, path) for run, path in zip(runs, checkpoints, strict=True)]
    try:
        for step in range(min(run.step for run in runs), max(run.total for run in runs)):
            for run, checkpoint in zip(runs, kept, strict=True):
                if run.step == step < run.total:
                    run.advance()
                    checkpoint.after_step(every)
            progress("sae", sum(run.step for run in runs), sum(run.total for run in runs))
    finally:
        batches.close()
    return runs


def _trained(run: TrainingRun) -> TrainedSae:
    model = run.model.eval()
    return TrainedSae(model=model, metrics=evaluate_sae(model, run.rows), history=run.history)


class _Kept:
    """A run and the file that it continues from; without a file nothing is kept."""

    def __init__(self, run: "TrainingRun", path: Path | None) -> None:
        self._run, self._path = run, path
        if path is not None:
            described = _describe(run.rows, run.statistics)
            self._identity = fingerprint([run.config.as_dict(), described])
            run.restore(path, self._identity)

    def after_step(self, every: int) -> None:
        """Write where it is due; one of several workers does."""
        run = self._run
        due = run.step % every == 0 or run.step == run.total
        if self._path is not None and due and run.workers.rank == 0:
            run.save(self._path, self._identity)


def _check_width(rows: EmbeddingRows, config: SaeConfig) -> None:
    if rows.shape[1] != config.embed_dim:
        raise InvalidInput(
            f"Embeddings have width {rows.shape[1]}, the configuration says {config.embed_dim}. "
            "Make the preset with embed_dim set to the width of the embeddings."
        )


def _describe(rows: EmbeddingRows, statistics: InputStatistics) -> list[Any]:
    """Shape and statistics: cheap, and different for different embeddings."""
    return [list(rows.shape), statistics.energy, statistics.mean.tolist()]
