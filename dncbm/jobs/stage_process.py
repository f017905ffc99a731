"""The process in which the stages of one job run, apart from the worker that watches it.

    python -m dncbm.jobs.stage_process MODULE:FUNCTION LOCK

`FUNCTION(stage, job, progress)` does a stage of a job (a table of JSON values) and returns a table.
A line of JSON on stdin asks for a stage; lines on stdout tell progress, log records, and the
result or the error. So a stage can be stopped at any moment, may fork, and takes nobody with it
when it runs out of memory. When its worker dies, stdin ends, and this process with it; until then
it holds the file LOCK, so no second process works on the same job.
"""

import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from dncbm.errors import DncbmError
from dncbm.jobs.liveness import process_locked

_TOLD_EVERY = 0.25
_LOCK_POLL_SECONDS = 0.1

RunStage = Callable[[str, dict[str, Any], Callable[[str, int, int], None]], dict[str, Any]]


class _Teller:
    """Writes lines to the worker; safe to share between threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._told = (float("-inf"), "", -1)

    def __call__(self, **message: Any) -> None:
        with self._lock:
            self._stream.write(json.dumps(message) + "\n")
            self._stream.flush()

    def progress(self, stage: str, done: int, total: int) -> None:
        """A `dncbm.training.progress.Progress` that tells a few times a second at most."""
        moment, phase, last = self._told
        now = time.monotonic()
        ended = done >= total and (phase, last) != (stage, done)
        if phase == stage and not ended and now - moment < _TOLD_EVERY:
            return
        self._told = (now, stage, done)
        self(progress=[stage, int(done), int(total)])


class _ToWorker(logging.Handler):
    """Log records as lines; not those of forked children, whose pipe this is not."""

    def __init__(self, tell: _Teller) -> None:
        super().__init__()
        self._tell, self._process = tell, os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        if os.getpid() != self._process:
            return
        try:
            message = f"{record.name}: {record.getMessage()}"
            self._tell(log=[record.created, record.levelname, message])
        except Exception:
            self.handleError(record)


def main(arguments: list[str]) -> None:
    """Do the stages that stdin asks for, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the worker decides
    tell = _Teller(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # what libraries print is no message
    logging.basicConfig(level=logging.INFO, handlers=[_ToWorker(tell)], force=True)
    logging.captureWarnings(True)
    asked: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(_own_stdin(), asked), daemon=True).start()
    lock = Path(arguments[1])
    while (held := process_locked(lock)) is None:
        time.sleep(_LOCK_POLL_SECONDS)
    module, _, name = arguments[0].partition(":")
    with held:
        run: RunStage = getattr(importlib.import_module(module), name)
        while True:
            _answer(asked.get(), run, tell)


def _answer(request: dict[str, Any], run: RunStage, tell: _Teller) -> None:
    try:
        tell(result=run(request["stage"], request["job"], tell.progress))
    except DncbmError as error:
        tell(error=str(error))
    except Exception as error:
        logging.error("%s", traceback.format_exc().rstrip())
        tell(error=f"Unexpected {type(error).__name__}: {error}. The log has the details.")


def _own_stdin() -> int:
    """The handle of stdin, which the program itself has no more.

    A forked process closes `sys.stdin` first, and would wait for ever for the thread that reads
    it here, which it does not have.
    """
    handle = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    return handle


def _listen(handle: int, asked: "queue.Queue[dict[str, Any]]") -> None:
    """Hand on what is asked; end all processes, whatever they do, when the worker is gone."""
    rest = b""
    while part := os.read(handle, 1 << 16):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            asked.put(json.loads(line))
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():  # with those that decode
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
