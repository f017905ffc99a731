"""The database of DBOS, which holds queue, states and finished stages of jobs."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbos import DBOS, DBOSPortableJSONSerializer
from dbos import error as dbos_errors
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from dncbm.errors import DncbmError, Unavailable
from dncbm.jobs.records import JobStatus

APPLICATION = "dncbm"
VERSION = "1"
"""Of the workflows' form, not of dncbm: jobs outlive an upgrade that keeps their stages."""
QUEUE = "dncbm-jobs"
SERIALIZER = DBOSPortableJSONSerializer()
"""Inputs and results are JSON; nothing is ever unpickled."""
_FILE = "jobs.sqlite"

STATUS: dict[str, JobStatus] = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "succeeded",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
    "CANCELLED": "cancelled",
}
"""States of DBOS, in our words."""


def system_url(database: str, state: Path) -> str:
    """Where DBOS keeps its tables: a file of its own, or a schema of its own in Postgres."""
    url = make_url(database)
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{state / _FILE}"
    # its own driver name is set by DBOS
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def prepare(url: str) -> None:
    """Make the tables of DBOS, or bring them up to date.

    Raises:
        Unavailable: the database does not answer or cannot be written.
    """
    with explained():
        if url.startswith("sqlite"):  # readers must not wait for writers
            file = make_url(url).database
            connection = sqlite3.connect(str(file), timeout=30)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
        DBOS.migrate(url)


def quiet(record: logging.LogRecord) -> bool:
    """A filter of the log of DBOS: the traceback of a failed stage is in the job's own log."""
    return not str(record.msg).startswith("Exception encountered in background workflow")


@contextmanager
def explained() -> Iterator[None]:
    """Errors of DBOS and its database as ours."""
    try:
        yield
    except DncbmError:
        raise
    except (DBAPIError, sqlite3.Error) as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        raise Unavailable(
            f"The database of jobs does not answer: {reason}. See that the server runs, or that "
            "the state folder can be written."
        ) from error
    except (SQLAlchemyError, dbos_errors.DBOSException) as error:
        raise Unavailable(f"The database of jobs is not usable: {error}.") from error
