"""An installation of jobs in a temporary folder, with workers as real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dncbm.jobs.client import JobClient
from dncbm.jobs.places import KEEP_FAILED_HOURS, Places
from dncbm.jobs.records import Job, Order

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
STAGES = ("one", "two", "three")
PATIENCE = 120.0
"""Seconds until a test gives up; nothing depends on how long anything takes."""


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.02)
    return found


class Installation:
    def __init__(self, models: Path, database: str | None = None) -> None:
        self.models, self.database = models, database
        models.mkdir(exist_ok=True)
        self.client = JobClient(Places.of(models, database=database))
        self._workers: list[subprocess.Popen[bytes]] = []

    def worker(
        self,
        *,
        concurrency: int = 1,
        total: int | None = None,
        clock: Path | None = None,
        keep_failed_hours: float = KEEP_FAILED_HOURS,
    ) -> subprocess.Popen[bytes]:
        """A worker; the file `clock` holds the seconds by which its wall clock is wrong."""
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{HERE}", "OMP_NUM_THREADS": "1"}
        environment |= {"WRONG_CLOCK": str(clock)} if clock else {}
        arguments = [str(self.models), self.database or "", str(concurrency), str(total or "")]
        arguments.append(str(keep_failed_hours))
        process = subprocess.Popen(
            [sys.executable, str(HERE / "fake_stages.py"), *arguments], env=environment
        )
        self._workers.append(process)
        return process

    def work(self, job: str) -> Path:
        return self.client.places.work_root / job

    def submit(self, name: str = "model", priority: int = 0, **changes: Any) -> str:
        order = Order(**{"name": name, "pipeline": "discover", "model": name, "stages": STAGES}
                      | changes)  # fmt: skip
        return self.client.enqueue(order, priority).id

    def hold(self, stage: str) -> None:
        (self.models / f"hold-{stage}").touch()

    def free(self, stage: str) -> None:
        (self.models / f"hold-{stage}").unlink()

    def fail(self, stage: str, how: str = "error") -> None:
        (self.models / f"fail-{stage}").write_text(how)

    def mend(self, stage: str) -> None:
        (self.models / f"fail-{stage}").unlink()

    @property
    def effects(self) -> list[str]:
        path = self.models / "effects"
        return path.read_text().splitlines() if path.exists() else []

    def await_effect(self, text: str, times: int = 1) -> None:
        wait_for(lambda: self.effects.count(text) >= times, text)

    def await_status(self, job: str, status: str) -> Job:
        def reached() -> Job | None:
            found = self.client.get(job)
            return found if found.status == status else None

        found: Job = wait_for(reached, status)
        return found

    def close(self) -> None:
        for process in self._workers:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.client.close()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path / "models")
    yield installation
    installation.close()
