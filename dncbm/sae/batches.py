"""The batches of a training: a true shuffle of all rows per epoch, read ahead of the steps."""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.sae.config import SaeConfig
from dncbm.sae.rows import EmbeddingRows
from dncbm.training.prefetch import Prefetched
from dncbm.training.seeding import generator
from dncbm.training.workers import ALONE, Workers

_AHEAD = 3


class Batch(NamedTuple):
    """What one worker gets of a step."""

    rows: Float[Tensor, "m d"]
    """As stored, on the CPU."""
    of_all: int
    """Number of rows of the step, over all workers."""


class Batches:
    """Batch by step number; the same for every run with this seed and batch size.

    Args:
        rows: embeddings.
        config: seed, batch size and budget.
        workers: who share each batch.
        pin: into memory that a GPU copies from while it computes.
    """

    def __init__(
        self,
        rows: EmbeddingRows,
        config: SaeConfig,
        workers: Workers = ALONE,
        *,
        pin: bool = False,
    ) -> None:
        self._rows, self._config, self._workers, self._pin = rows, config, workers, pin
        self._per_epoch = config.steps_per_epoch(len(rows))
        # An order is 8 bytes per row; at the end of an epoch the next one is needed too.
        self._order = lru_cache(maxsize=2)(self._draw_order)
        total = config.total_steps(len(rows))
        self._fetched = Prefetched(self._fetch, total, ahead=_AHEAD)
        self._last: tuple[int, Batch] | None = None

    def __getitem__(self, step: int) -> Batch:
        """Kept until another step is asked for, so that runs in step with each other share it."""
        if self._last is None or self._last[0] != step:
            self._last = step, self._fetched[step]
        return self._last[1]

    def close(self) -> None:
        """Stop reading ahead."""
        self._fetched.close()

    def _fetch(self, step: int) -> Batch:
        epoch, position = divmod(step, self._per_epoch)
        start = position * self._config.batch_size
        indices = self._order(epoch)[start : start + self._config.batch_size]
        rows = self._rows.gather(self._workers.share(indices))
        return Batch(rows.pin_memory() if self._pin else rows, len(indices))

    def _draw_order(self, epoch: int) -> Tensor:
        stream = generator(self._config.seed, "order", epoch)
        return torch.randperm(len(self._rows), generator=stream)
