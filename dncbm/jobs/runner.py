"""A job that runs: its process, and what that tells, written down."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dncbm.database import now
from dncbm.jobs.journal import MOST_LINES, Journal, Line
from dncbm.jobs.records import Progress

logger = logging.getLogger(__name__)

WRITE_EVERY: Final = 0.5
"""Seconds between two writes of progress or logs to the database."""
_LAST_LINES = 20
_LAST_WORDS_SECONDS = 2.0


class Interrupted(BaseException):
    """The job was cancelled, given away, or its worker stops; no failure of the stage.

    Not an `Exception`, so that DBOS records no outcome.
    """


class StageFailed(Exception):
    """A stage ended with an error; the message is for the user."""


class Meter:
    """Rate of what is counted, since a part of the stage began."""

    def __init__(self) -> None:
        self._part, self._start, self._first, self._last = "", 0.0, 0, 0

    def __call__(self, part: str, done: int, moment: float) -> float | None:
        """Per second; None until there is something to tell it from."""
        if part != self._part or done < self._last:
            self._part, self._start, self._first = part, moment, done
        self._last = done
        seconds = moment - self._start
        return (done - self._first) / seconds if done > self._first and seconds > 0 else None


class RunningJob:
    """One job in this worker; its stages run in one process of their own.

    Args:
        job: id.
        entry: `MODULE:FUNCTION` that does a stage.
        lock: file that the process holds.
        journal: where progress and logs go.
    """

    def __init__(self, job: str, entry: str, lock: Path, journal: Journal) -> None:
        self.job = job
        self.ended = threading.Event()
        self._command = [sys.executable, "-m", "dncbm.jobs.stage_process", entry, str(lock)]
        self._journal = journal
        self._interrupted = False
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._guard = threading.Lock()
        self._notes: _Notes | None = None
        self._stderr: deque[str] = deque(maxlen=_LAST_LINES)

    def interrupt(self) -> None:
        """End the process now, whatever it does; the stage raises `Interrupted`."""
        with self._guard:
            self._interrupted = True
            if self._process is not None:
                _kill(self._process)

    def flush(self) -> None:
        """Write down what was told and is not written yet."""
        if self._notes is not None:
            self._notes.write()

    def stage(self, position: int, name: str, job: dict[str, Any]) -> dict[str, Any]:
        """Do a stage and return what it made.

        Raises:
            StageFailed: it ended with an error, or its process died.
            Interrupted: see there.
        """
        process = self._started()
        self._notes = notes = _Notes(self._journal, self.job, position)
        try:
            with suppress(BrokenPipeError):  # what it died of is told below
                _send(process, {"stage": name, "job": job})
            return self._followed(process, name, notes)
        finally:
            notes.write()

    def _started(self) -> "subprocess.Popen[str]":
        with self._guard:
            if self._interrupted:
                raise Interrupted
            if self._process is None:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONUNBUFFERED": "1"},
                    start_new_session=True,  # Ctrl-C is for the worker
                )
                self._listener = threading.Thread(
                    target=self._keep_stderr, args=(self._process,), daemon=True
                )
                self._listener.start()
            return self._process

    def _keep_stderr(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                self._stderr.append(line.rstrip())

    def _followed(
        self, process: "subprocess.Popen[str]", name: str, notes: "_Notes"
    ) -> dict[str, Any]:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if "progress" in message:
                notes.progress(*message["progress"])
            elif "log" in message:
                notes.log(*message["log"])
            elif "error" in message:
                notes.log(time.time(), "ERROR", f"{name}: {message['error']}")
                raise StageFailed(message["error"])
            else:
                notes.finish()
                return dict(message["result"])
        if self._interrupted:
            raise Interrupted
        raise StageFailed(self._death(process, name, notes))

    def _death(self, process: "subprocess.Popen[str]", name: str, notes: "_Notes") -> str:
        code = process.wait()
        if self._listener is not None:
            self._listener.join(_LAST_WORDS_SECONDS)
        for line in self._stderr:
            notes.log(time.time(), "ERROR", line)
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        hint = " Most often memory ran out: lower batch_size or workers." if code == -9 else ""
        message = f"The process of the stage {name} ended {how}.{hint} Finished parts are kept."
        notes.log(time.time(), "ERROR", message)
        return message

    def close(self) -> None:
        """End the process, and wait for it."""
        with self._guard:
            process, self._process = self._process, None
        if process is not None:
            _kill(process)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
        self.ended.set()


def _kill(process: "subprocess.Popen[str]") -> None:
    """End the process and those that it forked, which else keep its pipes open."""
    if process.poll() is None and hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _send(process: "subprocess.Popen[str]", message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


class _Notes:
    """Progress and logs of a stage, written a few times a second at most.

    A journal that cannot be written (a full disk) must not end a stage that goes well: the last
    state is kept and tried again.
    """

    def __init__(self, journal: Journal, job: str, position: int) -> None:
        self._journal, self._job = journal, job
        self._lock = threading.Lock()
        self._meter = Meter()
        self._progress = Progress(position, now())
        self._lines: list[Line] = []
        self._changed = False
        self._written = time.monotonic()
        journal.begin(job, self._progress)

    def progress(self, part: str, done: int, total: int) -> None:
        """The stage told how far it is."""
        with self._lock:
            rate = self._meter(part, done, time.monotonic())
            self._progress = replace(self._progress, done=done, total=total, rate=rate)
            self._changed = True
        self._write_at_times()

    def log(self, seconds: float, level: str, text: str) -> None:
        """The stage logged something."""
        with self._lock:
            self._lines.append((datetime.fromtimestamp(seconds, UTC), level, text))
        self._write_at_times()

    def finish(self) -> None:
        """The stage is done."""
        with self._lock:
            self._progress = replace(self._progress, finished=now())
            self._changed = True

    def _write_at_times(self) -> None:
        if time.monotonic() - self._written >= WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            self._written = time.monotonic()
            try:
                if self._changed:
                    self._journal.record(self._job, self._progress)
                    self._changed = False
                lines, self._lines = self._lines[-MOST_LINES:], []
                self._journal.log(self._job, lines)
            except Exception as error:
                logger.warning("Progress of job %s is not written: %s", self._job, error)
