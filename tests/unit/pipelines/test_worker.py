"""The worker as `dncbm serve` keeps it."""

import os
import signal
import time
from pathlib import Path

import pytest

from pipelines import worker


def _workers(models: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"worker" in words and str(models).encode() in words:
            found.append(int(path.parent.name))
    return found


def _wait_for(condition, what: str):
    end = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


def _locks(models: Path) -> list[Path]:
    return list((models / ".dncbm" / "workers").glob("*"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_worker_that_dies_is_started_again_and_stops_with_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATE_DIR", "DATABASE_URL"):
        monkeypatch.delenv(f"DNCBM_{name}", raising=False)
    monkeypatch.setattr(worker, "_LONGEST_PAUSE", 0.1)
    with pytest.raises(SystemExit), worker.kept_running(tmp_path):
        _wait_for(lambda: _locks(tmp_path), "no worker")
        (first,) = _workers(tmp_path)
        os.kill(first, signal.SIGKILL)
        _wait_for(lambda: set(_workers(tmp_path)) - {first}, "no second worker")
        _wait_for(lambda: len(_locks(tmp_path)) > 1, "no second worker")
        os.kill(os.getpid(), signal.SIGTERM)  # as a service is ended
        time.sleep(60)
    assert _workers(tmp_path) == []
