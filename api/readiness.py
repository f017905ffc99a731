"""Whether the service can do its work now, asked of each part, with reasons."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from dncbm.database import Database
from dncbm.errors import DncbmError, Unavailable
from dncbm.jobs.places import HEARTBEAT

logger = logging.getLogger(__name__)

Check = Callable[[], None]
"""Raises a `DncbmError` with the reason where its part cannot work; the reason is public."""

_SECONDS = 2.0


class Readiness:
    """Checks by name, each in a thread and bounded in time."""

    def __init__(self, checks: Mapping[str, Check] | None = None) -> None:
        self._checks = dict(checks or {})
        self._threads: anyio.CapacityLimiter | None = None

    async def ask(self) -> dict[str, str]:
        """What each check says: `ok`, or the reason why not."""
        answers: dict[str, str] = {}
        for name, check in self._checks.items():
            answers[name] = await self._ask(name, check)
        return answers

    async def _ask(self, name: str, check: Check) -> str:
        # threads of its own: checks that hang must not take those of the routes
        self._threads = self._threads or anyio.CapacityLimiter(4)
        with anyio.move_on_after(_SECONDS):
            try:
                await run_sync(check, abandon_on_cancel=True, limiter=self._threads)
            except DncbmError as error:
                return str(error)
            except Exception as error:
                logger.error("The check of %s failed.", name, exc_info=error)
                return "The check failed. The log has the details."
            return "ok"
        return f"No answer within {_SECONDS:g} s."


def database_answers(database: Database) -> Check:
    """A check: one trivial query."""

    def check() -> None:
        try:
            # not through a session, which would wait for writers on SQLite
            connection = database.engine.raw_connection()
            try:
                connection.cursor().execute("SELECT 1")
            finally:
                connection.close()
        except Exception as error:
            # what drivers say may name hosts and users
            logger.warning("The database does not answer: %s", error)
            raise Unavailable("The database does not answer. The log has the details.") from error

    return check


def folder_writable(folder: Path) -> Check:
    """A check: a file of a moment can be made in the state folder."""

    def check() -> None:
        probe = folder / f".probe-{os.getpid()}-{time.monotonic_ns()}"
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            logger.warning("The state folder %s cannot be written: %s", folder, error)
            raise Unavailable(
                f"The state folder cannot be written ({error.strerror}). See DNCBM_STATE_DIR."
            ) from error

    return check


def worker_alive(folder: Path, seconds: float, clock: Callable[[], float] = time.time) -> Check:
    """A check: a worker touched its file in the state folder less than `seconds` ago.

    A mark from the future is as wrong as an old one: it was left before the clock was set back, and
    a worker that lives leaves the next within a second.
    """

    def check() -> None:
        try:
            age = abs(clock() - (folder / HEARTBEAT).stat().st_mtime)
        except OSError:
            raise Unavailable("No worker has shown itself yet. Start one.") from None
        if age > seconds:
            raise Unavailable(
                f"No worker has shown itself for {age:.0f} s; the limit is {seconds:g} s."
            )

    return check
