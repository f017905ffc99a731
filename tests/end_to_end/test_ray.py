"""Embedding on a Ray cluster gives the bytes of one machine, also when a worker is killed."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dncbm.artifacts import load_manifest
from dncbm.encoders.cache import EmbedConfig, embed
from dncbm.encoders.clip import Encoder
from pipelines.engine import run_on_ray
from tests.end_to_end.conftest import Finished, environment
from tests.unit.encoders.memory import Pictures, embed_pictures, file_bytes, is_clean, splits
from tests.unit.encoders.tiny import tiny_encoder

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'dncbm[ray]'")
pytest.importorskip("ray.data", reason="needs Ray Data: pip install 'dncbm[ray]'")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """Two actors' worth of cores, whatever this machine has."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # or a busy machine starves them
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": environment()["PYTHONPATH"]}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


class _WaitsToBeKilled:
    """Called at each read: the first process that reaches a picture tells its id and waits."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def __call__(self, index: int) -> None:
        if index == 17 and not self.note.exists():
            part = self.note.with_suffix(".part")
            part.write_text(str(os.getpid()))
            part.rename(self.note)
            time.sleep(600)


def _kill_when_told(note: Path, folder: Path, seen: dict[str, Any]) -> None:
    while not note.exists():
        time.sleep(0.02)
    while not (shards := list(folder.glob(".out.partial-*/shards/*.npy"))):
        time.sleep(0.02)
    seen["shards"] = {file.name: file.stat().st_ino for file in shards}
    seen["pid"] = int(note.read_text())
    os.kill(seen["pid"], signal.SIGKILL)


def _embed_on_ray(source: Pictures, encoder: Encoder, out: Path) -> Any:
    config = EmbedConfig(batch_size=3, num_workers=0, shard_rows=7)
    return embed(
        source,
        encoder,
        out,
        splits=splits(len(source.records)),
        config=config,
        engine=run_on_ray,
    )


def test_a_ray_worker_killed_midway_loses_nothing(encoder: Encoder, tmp_path: Path) -> None:
    whole = embed_pictures(Pictures(), encoder, tmp_path / "whole")
    note, folder = tmp_path / "pid", tmp_path / "work"
    folder.mkdir()
    seen: dict[str, Any] = {}
    killer = threading.Thread(target=_kill_when_told, args=(note, folder, seen))
    killer.start()
    found = _embed_on_ray(Pictures(before=_WaitsToBeKilled(note)), encoder, folder / "out")
    killer.join()
    assert seen["pid"] != os.getpid()
    assert file_bytes(found.path) == file_bytes(whole.path)
    assert found.manifest.fingerprint == whole.manifest.fingerprint
    assert is_clean(folder)
    kept = {file.name: file.stat().st_ino for file in found.path.glob("shards/*.npy")}
    assert seen["shards"].items() <= kept.items(), "a finished shard was computed again"


def test_the_command_gives_the_same_embeddings(
    dncbm: Callable[..., Finished], photos: Path, tmp_path: Path
) -> None:
    for engine in ("local", "ray"):
        out = tmp_path / engine
        done = dncbm("embed", "--data", photos, "--out", out, "--engine", engine, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out.splitlines()[-1])["images"] == 120
    local, on_ray = (tmp_path / name / "embeddings" for name in ("local", "ray"))
    assert file_bytes(local) == file_bytes(on_ray)
    assert load_manifest(local).fingerprint == load_manifest(on_ray).fingerprint
