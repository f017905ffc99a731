"""Embedding survives dying workers, full disks and kill -9."""

import errno
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dncbm import artifacts
from dncbm.encoders import shards
from dncbm.encoders.cache import EmbedConfig
from dncbm.encoders.clip import Encoder
from dncbm.encoders.decode import retry_dead_workers
from dncbm.errors import Unavailable
from tests.unit.encoders.memory import Pictures, embed_pictures, file_bytes, is_clean

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def _stop_at(index: int) -> Callable[[int], None]:
    def before(read: int) -> None:
        if read == index:
            raise KeyboardInterrupt

    return before


def test_a_resumed_run_reads_no_finished_shard_and_equals_an_uninterrupted_one(
    encoder: Encoder, tmp_path: Path
) -> None:
    whole = embed_pictures(Pictures(), encoder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        embed_pictures(Pictures(before=_stop_at(17)), encoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (work,) = tmp_path.glob(".out.partial-*")
    (work / ".items.parquet.part-0123abcd").write_bytes(b"killed while writing")
    rest = Pictures()
    resumed = embed_pictures(rest, encoder, tmp_path / "out")
    assert sorted(rest.reads) == list(range(14, 20))
    assert file_bytes(resumed.path) == file_bytes(whole.path)
    assert resumed.manifest.fingerprint == whole.manifest.fingerprint
    assert not [file for file in resumed.path.rglob(".*")]


def test_another_recipe_never_mixes_with_an_unfinished_one(
    encoder: Encoder, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed_pictures(Pictures(before=_stop_at(17)), encoder, tmp_path / "out")
    other = Pictures(broken=())
    found = embed_pictures(other, encoder, tmp_path / "out")
    assert sorted(other.reads) == list(range(20))
    assert len(found) == 20
    assert is_clean(tmp_path)


def _embed_until_killed(encoder: Encoder, out: Path, mark: Path) -> None:
    torch.set_num_threads(1)

    def before(index: int) -> None:
        if index == 17:
            mark.touch()
            time.sleep(600)

    embed_pictures(Pictures(before=before), encoder, out)


def test_kill_9_loses_no_finished_shard(encoder: Encoder, tmp_path: Path) -> None:
    whole = embed_pictures(Pictures(), encoder, tmp_path / "whole")
    (tmp_path / "work").mkdir()
    out, mark = tmp_path / "work" / "out", tmp_path / "mark"
    child = multiprocessing.get_context("fork").Process(
        target=_embed_until_killed, args=(encoder, out, mark)
    )
    child.start()
    while not mark.exists():
        assert child.is_alive()
        time.sleep(0.02)
    with pytest.raises(Unavailable, match="Another process is embedding into"):
        embed_pictures(Pictures(), encoder, out)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    rest = Pictures()
    resumed = embed_pictures(rest, encoder, out)
    assert sorted(rest.reads) == list(range(14, 20))
    assert file_bytes(resumed.path) == file_bytes(whole.path)
    assert is_clean(tmp_path / "work")


def test_a_worker_that_dies_is_replaced(encoder: Encoder, tmp_path: Path) -> None:
    main, mark = os.getpid(), tmp_path / "died"

    def before(index: int) -> None:
        if index == 9 and os.getpid() != main and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    config = EmbedConfig(batch_size=3, num_workers=2, shard_rows=7)
    found = embed_pictures(Pictures(before=before), encoder, tmp_path / "out", config)
    assert mark.exists()
    assert file_bytes(found.path) == file_bytes(
        embed_pictures(Pictures(), encoder, tmp_path / "whole").path
    )


def test_workers_that_keep_dying_end_the_run(encoder: Encoder, tmp_path: Path) -> None:
    main = os.getpid()

    def before(index: int) -> None:
        if index == 9 and os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)

    config = EmbedConfig(batch_size=3, num_workers=1, shard_rows=7)
    with pytest.raises(Unavailable, match="workers died 3 times at the same place: out of memory"):
        embed_pictures(Pictures(before=before), encoder, tmp_path / "out", config)
    rest = Pictures()
    embed_pictures(rest, encoder, tmp_path / "out")
    assert sorted(rest.reads) == list(range(7, 20))


@pytest.mark.parametrize("where", ["forward", "shard"])
def test_a_death_told_in_the_middle_of_other_work_is_survived(
    encoder: Encoder, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's signal handler raises wherever the main process happens to be."""
    owner, name = {
        "forward": (Encoder, "encode_images"),
        "shard": (shards, "write_bytes"),
    }[where]
    original, calls = getattr(owner, name), Counter[str]()

    def interrupted(*args: object) -> object:
        calls["n"] += 1
        if calls["n"] == 2:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")
        return original(*args)

    monkeypatch.setattr(owner, name, interrupted)
    found = embed_pictures(Pictures(), encoder, tmp_path / "out")
    assert calls["n"] > 3
    monkeypatch.setattr(owner, name, original)
    assert file_bytes(found.path) == file_bytes(
        embed_pictures(Pictures(), encoder, tmp_path / "whole").path
    )


def test_other_errors_of_the_work_are_not_repeated() -> None:
    def work() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        retry_dead_workers(work, lambda: 1)


def test_a_full_disk_keeps_finished_shards(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        calls = []

        def fsync(handle: int) -> None:
            calls.append(handle)
            if len(calls) > 4:
                raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(artifacts.os, "fsync", fsync)
        with pytest.raises(Unavailable, match="No space left while writing .* Finished parts are"):
            embed_pictures(Pictures(), encoder, tmp_path / "out")
    rest = Pictures()
    embed_pictures(rest, encoder, tmp_path / "out")
    assert sorted(rest.reads) == list(range(14, 20))


def test_an_output_that_cannot_be_written(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unavailable, match="a file stands where a directory is needed"):
        embed_pictures(Pictures(), encoder, tmp_path / "file" / "out")

    def mkdir(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(Unavailable, match="Cannot write to .*Read-only file system"):
        embed_pictures(Pictures(), encoder, tmp_path / "out")
