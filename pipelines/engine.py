"""Where the shards of an embedding job are computed: in this process, or on a Ray cluster.

On Ray, a pool of actors under `map_batches` of Ray Data takes one shard after the other. An actor
opens the encoder once, embeds whole shards with the very code of the local engine and writes them
into the job's directory, which every machine must see under the same path. Rows do not travel
through Ray's object store: a shard is on the disk, whole, or it is not there. Ray Data replaces an
actor that dies and hands its shard to another; shards that were finished stay as they are.
"""

import importlib
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dncbm.data.sources import ImageSource
from dncbm.encoders.backends.base import open_backend
from dncbm.encoders.clip import load_encoder
from dncbm.encoders.shards import EmbedConfig, Engine, ShardJob, run_locally
from dncbm.encoders.streams import streams_for, threads_of
from dncbm.errors import ArtifactMismatch, DncbmError, Unavailable, UnknownName

CPUS_PER_ACTOR = 2
"""Cores of one actor, a stream each; it decodes between them."""

_MOST_RETRIES = 3
"""Deaths of an actor at one shard that end the job: a picture may crash its codec every time."""


def find_engine(name: str) -> Engine:
    """The engine `local` or `ray`.

    Raises:
        UnknownName: another name.
        Unavailable: Ray is not installed.
    """
    engines: dict[str, Callable[[], Engine]] = {"local": lambda: run_locally, "ray": _ray_engine}
    if name not in engines:
        raise UnknownName("engine", name, list(engines))
    return engines[name]()


def _ray_engine() -> Engine:
    try:
        importlib.import_module("ray.data")
    except ImportError as error:
        raise Unavailable(
            "The engine 'ray' needs Ray: pip install 'dncbm[ray]', or use --engine local."
        ) from error
    return run_on_ray


def run_on_ray(job: ShardJob, report: Callable[[int], None]) -> None:
    """Finish the pending shards of `job` on the cluster at `$RAY_ADDRESS`, or on one made here.

    Raises:
        Unavailable: actors keep failing, or do not see the job's directory.
        ArtifactMismatch: a machine's encoder has other weights.
    """
    ray = importlib.import_module("ray")
    pending = job.pending()
    done = job.total - sum(map(job.records, pending))
    report(done)
    if not pending:
        return
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        for row in _finished_shards(ray, job, pending):
            done += int(row["records"])
            report(done)
    except ray.exceptions.RayError as error:
        raise _told(error) from error


def _finished_shards(ray: Any, job: ShardJob, pending: list[int]) -> Any:
    """One row per shard, as they are done."""
    gpus = int(job.encoder.device.startswith("cuda"))
    total = ray.cluster_resources()
    room = total.get("GPU", 0) if gpus else total.get("CPU", 1) // CPUS_PER_ACTOR
    cpus = min(CPUS_PER_ACTOR, int(total.get("CPU", 1)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    shards = ray.data.from_items(
        [{"start": start} for start in pending], override_num_blocks=len(pending)
    )
    return shards.map_batches(
        _Shards,
        fn_constructor_args=(job.source, _encoder_of(job), job.config, job.work),
        batch_size=1,
        num_cpus=cpus,
        num_gpus=gpus or None,
        max_task_retries=_MOST_RETRIES,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, int(room))),
    ).iter_rows()


def _encoder_of(job: ShardJob) -> dict[str, str]:
    encoder = job.encoder
    return {
        "spec": encoder.spec,
        "device": encoder.device,
        "precision": encoder.precision,
        "fingerprint": encoder.fingerprint,
    }


class _Shards:
    """An actor: the encoder of a job on some machine, which does whole shards."""

    def __init__(
        self, source: ImageSource, encoder: dict[str, str], config: EmbedConfig, work: Path
    ) -> None:
        if not work.is_dir():
            raise Unavailable(
                f"{work} is not seen on {platform.node()}. All machines of the cluster need the "
                "output directory, the images and the encoder under the same paths."
            )
        expected = encoder.pop("fingerprint")
        found = load_encoder(**encoder)
        if found.fingerprint != expected:
            raise ArtifactMismatch(
                f"The encoder {found.spec!r} on {platform.node()} has other weights "
                f"({found.fingerprint[:12]}) than where the job was started ({expected[:12]})."
            )
        self._streams = streams_for(found.device)
        with threads_of(self._streams):
            backend = open_backend(found, config.backend, self._streams)
        # decoding in threads between the streams: an actor of Ray must not fork
        config = replace(config, num_workers=0)
        self._job = ShardJob(source, found, config, work, backend=backend, streams=self._streams)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with threads_of(self._streams):
            counts = [sum(self._job.run([int(start)])) for start in batch["start"]]
        return {"records": np.array(counts)}


def _told(error: BaseException | None) -> DncbmError:
    """The error of ours that ended an actor, or what Ray says."""
    first = error
    while error is not None:
        if isinstance(error, DncbmError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    reason = (str(first).strip().splitlines() or [""])[-1]
    return Unavailable(
        f"Ray could not finish the embeddings: {reason[:300]} Finished shards are kept: run the "
        "same command again, or use --engine local."
    )
