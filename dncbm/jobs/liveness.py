"""Which workers live: each holds a lock that the system releases when it dies.

No clock decides: a worker that was stopped or starved for minutes still holds its lock, so its
jobs are never given to another one while it may go on with them.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from dncbm.errors import Unavailable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def locks_for(database: str, state: Path) -> "FileLocks | ServerLocks":
    """Locks as wide as the database: of this machine for a file, of the server for Postgres."""
    url = make_url(database)
    if url.get_backend_name() == "sqlite":
        return FileLocks(state / "workers")
    return ServerLocks(database)


class FileLocks:
    """POSIX record locks: unlike those of `flock`, a forked process does not inherit them."""

    def __init__(self, folder: Path) -> None:
        if fcntl is None:
            raise Unavailable(
                "Workers with SQLite need file locks, which this system lacks. Set "
                "DNCBM_DATABASE_URL to a Postgres server."
            )
        self._folder = folder
        self._held: dict[str, IO[str]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def hold(self, name: str) -> bool:
        """Take a lock until `close`, or the end of the process; False where another has it."""
        file = self._locked(name)
        if file is not None:
            self._held[name] = file
        return file is not None

    def _locked(self, name: str) -> IO[str] | None:
        file = (self._folder / name).open("w")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    @contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Hold the lock of a worker that may be dead, if it is."""
        # closing a second handle of a held file would end the lock
        file = None if name in self._held else self._locked(name)
        try:
            yield file is not None
            if file is not None:
                with suppress(FileNotFoundError):
                    (self._folder / name).unlink()
        finally:
            if file is not None:
                file.close()

    def intact(self) -> bool:
        """Whether what is held is still held: always, while the process lives."""
        return True

    def close(self) -> None:
        """Give all locks back."""
        for name, file in self._held.items():
            with suppress(FileNotFoundError):
                (self._folder / name).unlink()
            file.close()
        self._held.clear()


class ServerLocks:
    """Advisory locks of a Postgres session, which end with its connection."""

    def __init__(self, url: str) -> None:
        address = make_url(url).set(drivername="postgresql+psycopg")
        self._engine = create_engine(address, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._session: Connection | None = None
        self._held: set[str] = set()

    def _connection(self) -> Connection:
        if self._session is None:
            try:
                self._session = self._engine.connect()
            except SQLAlchemyError as error:
                raise Unavailable(f"The database does not answer: {error}.") from error
        return self._session

    def hold(self, name: str) -> bool:
        """Take a lock until `close`, or the end of the process; False where another has it."""
        taken = name not in self._held and self._try(name)
        if taken:
            self._held.add(name)
        return taken

    def _try(self, name: str) -> bool:
        query = text("select pg_try_advisory_lock(:key)")
        return bool(self._connection().scalar(query, {"key": _key(name)}))

    @contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Hold the lock of a worker that may be dead, if it is."""
        taken = name not in self._held and self._try(name)
        try:
            yield taken
        finally:
            if taken:
                query = text("select pg_advisory_unlock(:key)")
                self._connection().execute(query, {"key": _key(name)})

    def intact(self) -> bool:
        """Whether what is held is still held: the session has not been lost."""
        try:
            self._connection().execute(text("select 1"))
        except (SQLAlchemyError, Unavailable):
            return False
        return True

    def close(self) -> None:
        """Give all locks back."""
        if self._session is not None:
            self._session.close()
        self._held.clear()
        self._engine.dispose()


def _key(name: str) -> int:
    digest = hashlib.sha256(f"dncbm worker {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def process_locked(path: Path) -> IO[str] | None:
    """A handle that locks the file `path` until it is closed; None where another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    if fcntl is None:
        return file
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a network file system without locks
        return file
    return file


def worker_name() -> str:
    """A name that no other worker has or had."""
    return f"{os.uname().nodename if hasattr(os, 'uname') else 'worker'}-{os.getpid()}-" + (
        os.urandom(4).hex()
    )
