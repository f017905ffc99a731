"""Training an autoencoder with several Ray Train workers, each with a share of every batch.

The workers open the embeddings themselves and step in common (`dncbm.training.workers`); the
first one writes the same checkpoint file as a single process would. A worker that dies costs the
steps since the last checkpoint: Ray starts the group again, with as many workers as it can get,
and the file is continued. Embeddings and checkpoint must be visible to all machines under the
same path.
"""

import importlib
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np

from dncbm.encoders.artifact import load_embeddings
from dncbm.errors import InvalidInput, Unavailable
from dncbm.files import hidden
from dncbm.sae.config import SaeConfig
from dncbm.sae.rows import ShardRows
from dncbm.sae.train import TrainedSae, train_sae, train_to_checkpoint
from dncbm.training.progress import Progress, no_progress

CHECKPOINT_EVERY = 100
_MOST_FAILURES = 8
_POLL_SECONDS = 0.5


def train_sae_on_ray(
    embeddings: Path,
    rows: np.ndarray,
    config: SaeConfig,
    *,
    checkpoint: Path,
    workers: int,
    gpu: bool = False,
    progress: Progress = no_progress,
) -> TrainedSae:
    """What `train_sae` returns on these rows, up to the order in which floats are added.

    Args:
        embeddings: directory of an `embeddings` artifact.
        rows: positions of the rows to train on.
        config: the whole recipe; its batch size is that of all workers together.
        checkpoint: file to continue from and to write to.
        workers: how many processes at most; fewer where the cluster has no room for them.
        gpu: one GPU per worker.
        progress: told `("sae", step, total)`.

    Raises:
        Unavailable: Ray is not installed, or the workers failed again and again.
        InvalidInput: no worker.
    """
    if workers < 1:
        raise InvalidInput(f"workers is {workers}; training needs at least 1.")
    train = _ray_train()
    told = hidden(checkpoint, "progress")
    task = {
        "embeddings": str(embeddings.resolve()),
        "rows": rows,
        "config": config.as_dict(),
        "checkpoint": str(checkpoint.resolve()),
        "told": str(told.resolve()),
    }
    trainer = importlib.import_module("ray.train.torch").TorchTrainer(
        _work,
        train_loop_config=task,
        scaling_config=train.ScalingConfig(num_workers=(1, workers), use_gpu=gpu),
        run_config=train.RunConfig(
            storage_path=str(checkpoint.resolve().parent),
            name=hidden(checkpoint, "ray").name,
            failure_config=train.FailureConfig(max_failures=_MOST_FAILURES),
        ),
    )
    with _Watched(told, progress):
        _fit(trainer)
    told.unlink(missing_ok=True)
    opened = load_embeddings(embeddings)
    return train_sae(ShardRows(opened.shards, rows), config, checkpoint=checkpoint)


def _work(task: dict[str, Any]) -> None:
    """One worker, from the first step or the last checkpoint to the end."""
    device = importlib.import_module("ray.train.torch").get_device()
    told = Path(task["told"])

    def tell(stage: str, step: int, total: int) -> None:
        told.write_text(f"{step} {total}")

    opened = load_embeddings(Path(task["embeddings"]))
    first = importlib.import_module("ray.train").get_context().get_world_rank() == 0
    train_to_checkpoint(
        ShardRows(opened.shards, task["rows"]),
        SaeConfig(**task["config"]),
        Path(task["checkpoint"]),
        checkpoint_every=CHECKPOINT_EVERY,
        device=str(device),
        progress=tell if first else no_progress,
    )


def _fit(trainer: Any) -> None:
    ray = importlib.import_module("ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps a worker's error in one of its own, by version
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise Unavailable(
            f"Training on Ray ended after {_MOST_FAILURES} failures: {first[-1][:300]}. The "
            "checkpoint is kept; run the command again to go on from it."
        ) from error


class _Watched:
    """Reports the step that the first worker wrote down, while training goes on elsewhere."""

    def __init__(self, told: Path, progress: Progress) -> None:
        self._told, self._progress, self._over = told, progress, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = ""
        while not self._over.wait(_POLL_SECONDS):
            text = self._told.read_text() if self._told.exists() else ""
            if text != last and len(text.split()) == 2:
                last = text
                step, total = map(int, text.split())
                self._progress("sae", step, total)


def _ray_train() -> Any:
    try:
        return importlib.import_module("ray.train")
    except ImportError as error:
        raise Unavailable(
            "Training with several workers needs Ray: pip install 'dncbm[ray]', or leave out "
            "--train-workers."
        ) from error
