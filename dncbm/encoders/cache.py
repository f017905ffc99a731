"""Embedding a whole source: shard by shard, in a way that survives being killed.

Work happens in a hidden directory beside the output, whose name carries the recipe
(source, encoder, settings): another recipe never mixes with it. Finished shards are never
computed again, and a resumed run equals an uninterrupted one in every byte. At the end the
directory gets its manifest and its final name.

The backend belongs to the recipe. What `auto` chose is written down before the first shard, and
a resumed run goes on with it, whatever it would choose today; finished embeddings of any backend
that `auto` accepts are kept. Another backend by name is another recipe.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

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
from dncbm.encoders.backends.base import AUTO_NAMES, EAGER, ImageBackend, open_backend
from dncbm.encoders.calibrate import Choice, choice_from, choose_backend, sample_size
from dncbm.encoders.clip import Encoder
from dncbm.encoders.decode import decoded_batches
from dncbm.encoders.shards import EmbedConfig, Engine, ShardJob, run_locally, stacked
from dncbm.encoders.streams import Streams, streams_for, threads_of
from dncbm.errors import ArtifactError, InvalidInput, Unavailable
from dncbm.files import locked, publish, sweep
from dncbm.training.progress import Progress, no_progress

__all__ = ["EmbedConfig", "EmbeddingsArtifact", "embed", "load_embeddings"]

STAGE = "embed"
_PARTIAL = "partial"
_CHOICE = ".backend.json"
_log = logging.getLogger(__name__)


def embed(
    source: ImageSource,
    encoder: Encoder,
    out: Path,
    *,
    splits: Sequence[str],
    config: EmbedConfig,
    progress: Progress = no_progress,
    engine: Engine = run_locally,
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
        config: batch, workers, number format, shard size and backend.
        progress: called with the number of records done.
        engine: where the shards are computed; the result is the same.

    Raises:
        InvalidInput: no image could be read, NaN or infinite embeddings, wrong `splits`.
        ArtifactError: `out` holds something else.
        Unavailable: disk full, not writable, workers that die, or another run at work.
    """
    if len(splits) != len(source.records):
        raise InvalidInput(f"{len(splits)} splits for {len(source.records)} records; one each.")
    recipe = {"config": _recorded(encoder, splits, config), "inputs": _inputs(source, encoder)}
    finished = _finished(out, recipe, config)
    total = len(source.records)
    if finished is not None:
        progress(STAGE, total, total)
        return finished
    work = _work_folder(out, recipe, config)
    with writing(out):
        (work / SHARDS).mkdir(parents=True, exist_ok=True)
    streams = streams_for(encoder.device)
    with _only_one(work), threads_of(streams):
        choice = _choice(source, encoder, config, work, streams)
        backend = _open_backend(encoder, choice.backend, work, streams)
        chosen = replace(config, backend=choice.backend)
        job = ShardJob(source, encoder, chosen, work, backend=backend, streams=streams)
        engine(job, lambda done: progress(STAGE, done, total))
        metrics = _write_items(job, splits) | {"backend": choice.as_dict()}
        recipe["config"]["backend"] = choice.backend
        _publish(work, out, recipe, metrics)
    return load_embeddings(out)


def _recorded(encoder: Encoder, splits: Sequence[str], config: EmbedConfig) -> dict[str, Any]:
    """The settings that change the result, but for the backend, which may yet be chosen."""
    return {
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "shard_rows": config.shard_rows,
        "encoder": encoder.spec,
        "precision": encoder.precision,
        "splits": fingerprint(list(splits)),
    }


def _inputs(source: ImageSource, encoder: Encoder) -> dict[str, str]:
    return {"source": source.fingerprint, "encoder": encoder.fingerprint}


def _finished(out: Path, recipe: dict[str, Any], config: EmbedConfig) -> EmbeddingsArtifact | None:
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
    settings = dict(found.manifest.config)
    backend = settings.pop("backend", EAGER)  # what computed before there was a choice
    same = recipe == {"config": settings, "inputs": found.manifest.inputs}
    return found if same and _is_meant(backend, found.manifest.metrics, config) else None


def _is_meant(backend: object, metrics: dict[str, Any], config: EmbedConfig) -> bool:
    """Whether what is there is of the backend asked for, or of one that `auto` may take."""
    if not config.is_auto:
        return bool(backend == config.backend)
    return backend == EAGER or (
        backend in AUTO_NAMES
        and (choice_from(metrics["backend"]).min_cosine or 0.0) >= config.min_cosine
    )


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


def _work_folder(out: Path, recipe: dict[str, Any], config: EmbedConfig) -> Path:
    """Where this recipe is worked on: named by what was asked for, which `auto` is part of."""
    asked = [recipe, config.min_cosine if config.is_auto else config.backend]
    return out.parent / f".{out.name}.{_PARTIAL}-{fingerprint(asked)[:12]}"


def _choice(
    source: ImageSource, encoder: Encoder, config: EmbedConfig, work: Path, streams: Streams
) -> Choice:
    """The backend that this work was begun with, or one that is chosen now and written down."""
    if config.backend == EAGER:
        return Choice(backend=EAGER, reason="named")
    note = work / _CHOICE
    if note.is_file():
        return choice_from(read_json(note))
    count = len(source.records)
    found = choose_backend(
        encoder,
        config.backend,
        lambda: _sample(source, encoder, sample_size(streams)),
        images=count,
        min_cosine=config.min_cosine,
        streams=streams,
    )
    write_json(note, found.as_dict())
    return found


def _sample(source: ImageSource, encoder: Encoder, size: int) -> Tensor:
    """Pixels of images from all over the source, which is often sorted by class."""
    count = len(source.records)
    chosen = sorted({index * count // size for index in range(size)})
    batch = next(decoded_batches(source, encoder.preprocess.resize, [chosen], num_workers=0))
    return stacked(encoder, batch)


def _open_backend(encoder: Encoder, name: str, work: Path, streams: Streams) -> ImageBackend:
    try:
        return open_backend(encoder, name, streams)
    except Unavailable as error:
        raise Unavailable(
            f"{error} The unfinished embeddings in {work} were begun with it; with another "
            "--backend they begin anew."
        ) from error


def _write_items(job: ShardJob, splits: Sequence[str]) -> dict[str, Any]:
    """Write `items.parquet` from the shards' notes; return the counts."""
    columns = job.notes()
    errors = columns["error"]
    good = np.array([error is None for error in errors])
    records = job.source.records
    if not good.any():
        raise InvalidInput(
            f"None of the {job.total} images can be read. The first: "
            f"{records[0].path!r}: {errors[0]}"
        )
    columns |= {
        "id": [record.id for record in records],
        "path": [record.path for record in records],
        "label": [record.label for record in records],
        "split": list(splits),
        "row": np.where(good, np.cumsum(good) - 1, -1).tolist(),
    }
    data = io.BytesIO()
    pq.write_table(pa.table(columns, schema=ITEMS_SCHEMA), data)
    write_bytes(job.work / ITEMS, data.getvalue())
    return {"images": int(good.sum()), "broken": int((~good).sum())}


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
