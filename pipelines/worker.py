"""The worker process, and how `dncbm serve` keeps one running."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dncbm.database import Database
from dncbm.errors import Unavailable
from dncbm.jobs.places import Places
from pipelines.console import stderr

ENTRY = "pipelines.job_stages:run_stage"
_STEADY_SECONDS = 60.0
"""A worker that ran this long is started again at once."""
_LONGEST_PAUSE = 60.0
_STOP_SECONDS = 20.0


def work(
    places: Places,
    *,
    concurrency: int,
    total: int | None,
    with_parent: bool,
    entry: str = ENTRY,
) -> None:
    """Run jobs until SIGTERM or SIGINT; with `with_parent` also until the parent process ends.

    When the connection to the database is lost, this program begins anew as soon as the database
    answers: other workers may have taken its jobs over, so nothing of it may live on. A parent is
    left to do so.

    Raises:
        Unavailable: the database does not answer at the start.
    """
    from dncbm.jobs.client import JobClient  # DBOS is heavy: not for the other commands
    from dncbm.jobs.executor import ConnectionLost, Executor

    parent, told = os.getppid(), threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    client = JobClient(places)
    executor = Executor(client, entry, concurrency=concurrency, total=total)
    if not with_parent:  # beside the service its log is the parent's, whose lines are JSON
        stderr.print(f"Worker {executor.name} takes jobs for {places.models}")
    try:
        executor.run(lambda: told.is_set() or (with_parent and os.getppid() != parent))
    except ConnectionLost as error:
        if with_parent:
            raise
        stderr.print(f"{error}")
        if _answers_again(places.database, told):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    client.close()


def _answers_again(database: str, told: threading.Event) -> bool:
    """Wait for the database; False where the worker was told to end meanwhile."""
    pause = 0.5
    while not told.wait(pause):
        try:
            Database(database).close()
        except Unavailable as error:
            pause = min(2 * pause, _LONGEST_PAUSE)
            stderr.print(f"{error} Again in {pause:.0f} s.")
        else:
            return True
    return False


@contextmanager
def kept_running(models: Path, settings: Mapping[str, str] | None = None) -> Iterator[None]:
    """A worker as a child process while the block runs, started again when it dies.

    Its environment is this process's, with `settings` in place of what they name.

    A server that was told to end by SIGTERM ends itself with it, as it should, but the worker
    must be stopped first: so the signal becomes an exception here.
    """
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, _leave)
    keeper = threading.Thread(target=_keep, args=(models, dict(settings or {}), stop), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join(_STOP_SECONDS + 5)
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _keep(models: Path, settings: dict[str, str], stop: threading.Event) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "worker", str(models), "--with-parent"]
    pause = 1.0
    while not stop.is_set():
        began = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, **settings})
        while child.poll() is None and not stop.wait(0.2):
            pass
        if stop.is_set():
            _end(child)
            return
        pause = (
            1.0 if time.monotonic() - began > _STEADY_SECONDS else min(pause * 2, _LONGEST_PAUSE)
        )
        stderr.print(f"The worker ended with code {child.returncode}; again in {pause:.0f} s.")
        stop.wait(pause)


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
