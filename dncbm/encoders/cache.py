"""Embedding a whole source: shard by shard, in a way that survives being killed.

Work happens in a hidden directory beside the output, whose name carries the recipe
(source, encoder, settings): another recipe never mixes with it. A shard is one `.npy` and
then one small JSON; what has both is never computed again. Batches do not cross shards and
always hold the same records, so that a resumed run equals an uninterrupted one in every
byte. At the end the directory gets its manifest and its final name.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dncbm.artifacts import (
    MANIFEST,
    fingerprint,
    read_json,
    require_replaceable,
    seal,
    write_bytes,
    write_json,
    writing,
)
from dncbm.data.sources import ImageSource
from dncbm.encoders.artifact import (
    ITEMS,
    ITEMS_SCHEMA,
    SHARDS,
    EmbeddingsArtifact,
    load_embeddings,
)
from dncbm.encoders.clip import Encoder
from dncbm.encoders.decode import Decoded, decoded_batches, retry_dead_workers
from dncbm.errors import ArtifactError, InvalidInput, Unavailable
from dncbm.files import locked, publish, sweep
from dncbm.training.progress import Progress, no_progress

__all__ = ["EmbedConfig", "EmbeddingsArtifact", "embed", "load_embeddings"]

STAGE = "embed"
_PARTIAL = "partial"
_log = logging.getLogger(__name__)


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

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0), ("shard_rows", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.dtype not in ("float32", "float16"):
            raise InvalidInput(f"dtype is {self.dtype!r}; use 'float32' or 'float16'.")


def embed(
    source: ImageSource,
    encoder: Encoder,
    out: Path,
    *,
    splits: Sequence[str],
    config: EmbedConfig,
    progress: Progress = no_progress,
) -> EmbeddingsArtifact:
    """Embed every image of `source` into the artifact `out`; broken images are listed.

    The same call again returns the finished artifact, or goes on where a killed run ended.
    Embeddings of other settings at `out`, or damaged ones, are replaced when the new ones are
    complete.

    Args:
        source: the images.
        encoder: gives raw embeddings, which are stored as they are.
        out: directory of the artifact.
        splits: train, validation or test for each record.
        config: batch, workers, number format and shard size.
        progress: called with the number of records done.

    Raises:
        InvalidInput: no image could be read, NaN or infinite embeddings, wrong `splits`.
        ArtifactError: `out` holds something else.
        Unavailable: disk full, not writable, workers that die, or another run at work.
    """
    if len(splits) != len(source.records):
        raise InvalidInput(f"{len(splits)} splits for {len(source.records)} records; one each.")
    recipe = {"config": _recorded(encoder, splits, config), "inputs": _inputs(source, encoder)}
    finished = _finished(out, recipe)
    if finished is not None:
        progress(STAGE, len(source.records), len(source.records))
        return finished
    work = out.parent / f".{out.name}.{_PARTIAL}-{fingerprint(recipe)[:12]}"
    with writing(out):
        (work / SHARDS).mkdir(parents=True, exist_ok=True)
    with _only_one(work), _one_core_left():
        job = _Job(source, encoder, config, work, progress)
        retry_dead_workers(job.run, lambda: len(job.pending()))
        metrics = job.write_items(splits)
        _publish(work, out, recipe, metrics)
    return load_embeddings(out)


def _recorded(encoder: Encoder, splits: Sequence[str], config: EmbedConfig) -> dict[str, Any]:
    """The settings that change the result; the number of workers does not."""
    settings = {k: v for k, v in asdict(config).items() if k != "num_workers"}
    return settings | {
        "encoder": encoder.spec,
        "precision": encoder.precision,
        "splits": fingerprint(list(splits)),
    }


def _inputs(source: ImageSource, encoder: Encoder) -> dict[str, str]:
    return {"source": source.fingerprint, "encoder": encoder.fingerprint}


def _finished(out: Path, recipe: dict[str, Any]) -> EmbeddingsArtifact | None:
    """What stands at `out`, if it is this very artifact and whole; None if it may be replaced.

    Raises:
        ArtifactError: `out` holds something that embeddings do not replace.
    """
    require_replaceable(out)
    if not (out / MANIFEST).is_file():
        return None
    _require_embeddings(out)
    try:
        found = load_embeddings(out)
    except ArtifactError as error:
        _log.warning("%s Embedding the images again.", error)
        return None
    same = recipe == {"config": found.manifest.config, "inputs": found.manifest.inputs}
    return found if same else None


def _require_embeddings(out: Path) -> None:
    """Refuse another kind of artifact; a manifest too damaged to tell its kind passes."""
    try:
        manifest = read_json(out / MANIFEST)
    except ArtifactError:
        return
    kind = manifest.get("kind", "embeddings") if isinstance(manifest, dict) else "embeddings"
    if kind != "embeddings":
        raise ArtifactError(
            f"{out} is an artifact of kind {kind!r}; embeddings will not replace it. "
            "Choose another output directory or remove it."
        )


@contextmanager
def _only_one(work: Path) -> Iterator[None]:
    """Hold the work directory's lock; the system releases it when a process is killed."""
    with writing(work), ExitStack() as stack:
        try:
            stack.enter_context(locked(work))
        except (BlockingIOError, FileNotFoundError) as error:  # held, or swept when another ended
            raise Unavailable(
                f"Another process is embedding into {work}. Wait for it, or choose another "
                "output directory."
            ) from error
        yield


@contextmanager
def _one_core_left() -> Iterator[None]:
    """Leave a core to the decoding processes while the encoder runs.

    Threads of a forward pass wait for the slowest of them: with one thread per core, a decoder
    that takes a core stalls them all (measured: 5 times slower on two busy cores). It holds
    without workers too, since the number of threads may change the last bit of a result.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Job:
    """One run over a source: what is done, what is left, and doing it."""

    def __init__(
        self,
        source: ImageSource,
        encoder: Encoder,
        config: EmbedConfig,
        work: Path,
        progress: Progress,
    ) -> None:
        self._source = source
        self._encoder = encoder
        self._config = config
        self._work = work
        self._progress = progress
        self._total = len(source.records)
        self._done = 0
        self._started = False

    def pending(self) -> list[int]:
        """First records of the shards that are not finished."""
        starts = range(0, self._total, self._config.shard_rows)
        return [start for start in starts if not self._is_done(start)]

    def run(self) -> None:
        """Embed all pending shards; decoding runs ahead across their borders.

        When called again after a death of a worker it does one shard at a time, so that a
        picture that crashes its worker cannot spoil the shard before its own.
        """
        pending = self.pending()
        groups = [[start] for start in pending] if self._started else [pending]
        self._started = True
        left = sum(len(batch) for start in pending for batch in self._batches(start))
        self._done = self._total - left
        self._progress(STAGE, self._done, self._total)
        for group in groups:
            self._run_shards(group)

    def _run_shards(self, starts: Sequence[int]) -> None:
        stream = decoded_batches(
            self._source,
            self._encoder.preprocess.resize,
            [batch for start in starts for batch in self._batches(start)],
            num_workers=self._config.num_workers,
        )
        for start in starts:
            decoded: list[Decoded] = []
            rows: list[np.ndarray] = []
            for _ in self._batches(start):
                batch = next(stream)
                rows.append(self._embed_batch(batch))
                decoded += [_without_pixels(item) for item in batch]
                self._done += len(batch)
                self._progress(STAGE, self._done, self._total)
            self._write_shard(start, decoded, np.concatenate(rows))

    def _batches(self, start: int) -> list[range]:
        stop = min(start + self._config.shard_rows, self._total)
        size = self._config.batch_size
        return [range(first, min(first + size, stop)) for first in range(start, stop, size)]

    def _embed_batch(self, batch: Sequence[Decoded]) -> np.ndarray:
        """Embeddings (good images, d) in the stored format."""
        good = [item for item in batch if item.pixels is not None]
        if not good:
            return np.zeros((0, self._encoder.embed_dim), dtype=self._config.dtype)
        pixels = torch.from_numpy(
            np.stack([item.pixels for item in good if item.pixels is not None])
        )
        found = self._encoder.encode_images(self._encoder.preprocess.normalise(pixels))
        with np.errstate(over="ignore"):  # float16 overflow is told below, by name
            rows = found.numpy().astype(self._config.dtype)
        self._require_finite(rows, good)
        return rows

    def _require_finite(self, rows: np.ndarray, good: Sequence[Decoded]) -> None:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            names = ", ".join(repr(self._source.records[good[i].index].path) for i in bad[:3])
            raise InvalidInput(
                f"The encoder gives NaN or infinite embeddings for {bad.size} images of a batch: "
                f"{names}. Use precision fp32 and dtype float32, or another encoder."
            )

    def _shard(self, start: int) -> Path:
        return self._work / SHARDS / f"{start // self._config.shard_rows:06d}.npy"

    def _note(self, start: int) -> Path:
        return self._work / SHARDS / f".{start // self._config.shard_rows:06d}.json"

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

    def write_items(self, splits: Sequence[str]) -> dict[str, Any]:
        """Write `items.parquet` from the shards' notes; return the counts."""
        columns: dict[str, list[Any]] = {"width": [], "height": [], "error": []}
        for start in range(0, self._total, self._config.shard_rows):
            note = read_json(self._note(start))
            for name, values in columns.items():
                values += note[name]
        errors = columns["error"]
        good = np.array([error is None for error in errors])
        if not good.any():
            raise InvalidInput(
                f"None of the {self._total} images can be read. The first: "
                f"{self._source.records[0].path!r}: {errors[0]}"
            )
        records = self._source.records
        columns |= {
            "id": [record.id for record in records],
            "path": [record.path for record in records],
            "label": [record.label for record in records],
            "split": list(splits),
            "row": np.where(good, np.cumsum(good) - 1, -1).tolist(),
        }
        data = io.BytesIO()
        pq.write_table(pa.table(columns, schema=ITEMS_SCHEMA), data)
        write_bytes(self._work / ITEMS, data.getvalue())
        return {"images": int(good.sum()), "broken": int((~good).sum())}


def _without_pixels(item: Decoded) -> Decoded:
    return Decoded(item.index, None, item.width, item.height, item.error)


def _publish(work: Path, out: Path, recipe: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Seal the work directory and give it its final name."""
    seal(work, "embeddings", **recipe, metrics=metrics)
    with writing(out):
        require_replaceable(out)  # again: embedding may have taken hours
        publish(work, out)
        # Only now are the working files useless: a kill before this line loses nothing.
        for file in (*out.glob(".*"), *(out / SHARDS).glob(".*")):
            file.unlink(missing_ok=True)
        sweep(out, _PARTIAL)
