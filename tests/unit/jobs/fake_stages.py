"""Stages that tests steer by files in the model root, and a worker that runs them."""

import multiprocessing
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dncbm.errors import Unavailable


def run(stage: str, job: dict[str, Any], progress: Any) -> dict[str, Any]:
    """Note the begin, wait while `hold-STAGE` exists, fail while `fail-STAGE` does, note the end.

    What is noted goes into the file `effects`, a line each, with the job's name.
    """
    models = Path(job["models"])
    note(models, f"{job['name']} {stage} begin")
    Path(job["work"]).mkdir(parents=True, exist_ok=True)
    done = 0
    while (models / f"hold-{stage}").exists():
        progress(stage, done, 10_000)
        done += 1
        time.sleep(0.01)
    if stage == "fork":
        fork(models)
    sys.stdout.write("what libraries print\n")
    sys.stdout.flush()
    if (models / f"fail-{stage}").exists():
        reason = (models / f"fail-{stage}").read_text()
        if reason == "disk full":
            raise Unavailable("No space left while writing; free some space.")
        if reason == "die":
            sys.stderr.write("last words\n")
            sys.stderr.flush()
            os._exit(7)
        raise KeyError(reason)
    progress(stage, 10, 10)
    note(models, f"{job['name']} {stage} end")
    return {"stage": stage}


def fork(models: Path) -> None:
    """As loaders of photos do."""
    process = multiprocessing.get_context("fork").Process(target=note, args=(models, "forked"))
    process.start()
    process.join()


def note(models: Path, text: str) -> None:
    with (models / "effects").open("a") as stream:
        stream.write(text + "\n")


def set_clock(file: Path) -> None:
    """Let the wall clock be wrong by the seconds that `file` holds, as soon as it is written."""
    from dncbm.database import engine
    from dncbm.jobs import runner

    right = time.time

    def wrong() -> float:
        return right() + (float(file.read_text() or 0) if file.exists() else 0)

    time.time = wrong
    engine.now = runner.now = lambda: datetime.fromtimestamp(wrong(), UTC)


def main(models: str, database: str, concurrency: str, total: str, keep: str) -> None:
    import signal
    import threading

    from dncbm.jobs.client import JobClient
    from dncbm.jobs.executor import Executor
    from dncbm.jobs.places import Places

    if clock := os.environ.get("WRONG_CLOCK"):
        set_clock(Path(clock))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    client = JobClient(
        Places.of(Path(models), database=database or None, keep_failed_hours=float(keep))
    )
    executor = Executor(
        client,
        "fake_stages:run",
        concurrency=int(concurrency),
        total=int(total) if total else None,
        poll_seconds=0.1,
    )
    executor.run(stop.is_set)
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
