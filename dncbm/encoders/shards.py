"""The shards of an embedding job: what is done, what is left, and doing one.

A shard is one `.npy` and then one small JSON, each renamed into place when complete; what has
both is never computed again. Batches do not cross shards and always hold the same records, so
that it does not matter which process does which shard, or does it twice: the bytes are the same.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from dncbm.artifacts import read_json, write_bytes, write_json
from dncbm.data.sources import ImageSource
from dncbm.encoders.artifact import SHARDS
from dncbm.encoders.backends.base import AUTO, EAGER, ImageBackend, check_backend
from dncbm.encoders.clip import Encoder
from dncbm.encoders.decode import Decoded, decoded_batches, retry_dead_workers
from dncbm.encoders.streams import Streams, streamed
from dncbm.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """How a source is embedded."""

    batch_size: int = 64
    """Images per forward pass."""
    num_workers: int = 2
    """Processes that decode images; 0 decodes in the main process. Never changes results."""
    dtype: str = "float32"
    """Stored number format: `float32` or `float16`."""
    shard_rows: int = 8192
    """Records per shard: what a killed run loses at most."""
    backend: str = EAGER
    """What computes: a name of `backends.base.BACKENDS`, or `auto` to measure and choose."""
    min_cosine: float = 0.9999
    """Smallest cosine to PyTorch in fp32 that `auto` accepts, of the worst image it looks at."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0), ("shard_rows", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.dtype not in ("float32", "float16"):
            raise InvalidInput(f"dtype is {self.dtype!r}; use 'float32' or 'float16'.")
        if not 0 <= self.min_cosine <= 1:
            raise InvalidInput(f"min_cosine is {self.min_cosine}; it must be between 0 and 1.")
        check_backend(self.backend)

    @property
    def is_auto(self) -> bool:
        """Whether the backend is still to be chosen."""
        return self.backend == AUTO


@final
class ShardJob:
    """The shards of one source in one directory; several processes may work on different ones."""

    def __init__(
        self, source: ImageSource, encoder: Encoder, config: EmbedConfig, work: Path, *,
        backend: ImageBackend, streams: Streams,
    ) -> None:  # fmt: skip
        self.source = source
        self.encoder = encoder
        self.config = config
        """With the name of the backend that was chosen."""
        self.work = work
        self.total = len(source.records)
        """Records in all shards."""
        self._backend = backend
        self._streams = streams

    def pending(self) -> list[int]:
        """First records of the shards that are not finished."""
        starts = range(0, self.total, self.config.shard_rows)
        return [start for start in starts if not self._is_done(start)]

    def records(self, start: int) -> int:
        """Number of records of the shard that begins at `start`."""
        return min(self.config.shard_rows, self.total - start)

    def run(self, starts: Sequence[int]) -> Iterator[int]:
        """Embed these shards; yields the number of records after each batch.

        Decoding runs ahead of the encoder, across the borders of shards.
        """
        stream = decoded_batches(
            self.source,
            self.encoder.preprocess.resize,
            [batch for start in starts for batch in self._batches(start)],
            num_workers=self.config.num_workers,
        )
        embedded = streamed(self._embed_batch, stream, self._streams)
        for start in starts:
            decoded: list[Decoded] = []
            rows: list[np.ndarray] = []
            for _ in self._batches(start):
                items, found = next(embedded)
                decoded += items
                rows.append(found)
                yield len(items)
            self._write_shard(start, decoded, np.concatenate(rows))

    def _batches(self, start: int) -> list[range]:
        stop = start + self.records(start)
        size = self.config.batch_size
        return [range(first, min(first + size, stop)) for first in range(start, stop, size)]

    def _embed_batch(self, batch: Sequence[Decoded]) -> tuple[list[Decoded], np.ndarray]:
        """The items without their pixels, and embeddings (good images, d) as they are stored."""
        items = [_without_pixels(item) for item in batch]
        good = [item for item in batch if item.pixels is not None]
        if not good:
            return items, np.zeros((0, self.encoder.embed_dim), dtype=self.config.dtype)
        found = self._backend(stacked(self.encoder, good))
        with np.errstate(over="ignore"):  # float16 overflow is told below, by name
            rows = found.numpy().astype(self.config.dtype)
        self._require_finite(rows, good)
        return items, rows

    def _require_finite(self, rows: np.ndarray, good: Sequence[Decoded]) -> None:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            names = ", ".join(repr(self.source.records[good[i].index].path) for i in bad[:3])
            raise InvalidInput(
                f"The encoder gives NaN or infinite embeddings for {bad.size} images of a batch: "
                f"{names}. Use precision fp32 and dtype float32, or another encoder."
            )

    def _shard(self, start: int) -> Path:
        return self.work / SHARDS / f"{start // self.config.shard_rows:06d}.npy"

    def _note(self, start: int) -> Path:
        return self.work / SHARDS / f".{start // self.config.shard_rows:06d}.json"

    def _is_done(self, start: int) -> bool:
        return self._note(start).is_file() and self._shard(start).is_file()

    def _write_shard(self, start: int, decoded: Sequence[Decoded], rows: np.ndarray) -> None:
        data = io.BytesIO()
        np.save(data, rows, allow_pickle=False)
        write_bytes(self._shard(start), data.getvalue())
        note = {
            "width": [item.width for item in decoded],
            "height": [item.height for item in decoded],
            "error": [item.error for item in decoded],
        }
        write_json(self._note(start), note)

    def notes(self) -> dict[str, list[Any]]:
        """Width, height and error of every record, from the finished shards."""
        columns: dict[str, list[Any]] = {"width": [], "height": [], "error": []}
        for start in range(0, self.total, self.config.shard_rows):
            note = read_json(self._note(start))
            for name, values in columns.items():
                values += note[name]
        return columns


Engine = Callable[[ShardJob, Callable[[int], None]], None]
"""Finishes all pending shards of a job; calls back with the number of records done so far."""


def run_locally(job: ShardJob, report: Callable[[int], None]) -> None:
    """The engine of one machine: this process encodes, its workers decode.

    After a death of a worker it does one shard at a time, so that a picture that crashes its
    worker cannot spoil the shard before its own.
    """
    attempts = 0

    def work() -> None:
        nonlocal attempts
        pending = job.pending()
        groups = [[start] for start in pending] if attempts else [pending]
        attempts += 1
        done = job.total - sum(map(job.records, pending))
        report(done)
        for group in groups:
            for count in job.run(group):
                done += count
                report(done)

    retry_dead_workers(work, lambda: len(job.pending()))


def stacked(encoder: Encoder, items: Sequence[Decoded]) -> torch.Tensor:
    """Normalised pixels (n, 3, h, w) of decoded images; those without pixels are left out."""
    pixels = [item.pixels for item in items if item.pixels is not None]
    if not pixels:
        return torch.zeros(0, 3, *encoder.image_size)
    return encoder.preprocess.normalise(torch.from_numpy(np.stack(pixels)))


def _without_pixels(item: Decoded) -> Decoded:
    return Decoded(item.index, None, item.width, item.height, item.error)
