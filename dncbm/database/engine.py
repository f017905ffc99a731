"""One database for registry, edits and audit log, brought up to date when it is opened.

Rooms declare their tables as subclasses of `Base`; `migrations` holds how the schema came to be.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import DateTime, Engine, TypeDecorator, create_engine, event, make_url
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from dncbm.errors import InvalidInput, Unavailable

logger = logging.getLogger(__name__)

_BUSY_SECONDS = 30.0
"""How long a writer waits for another one."""
_MIGRATION_LOCK = 0x646E63626D
"""Of Postgres; the letters dncbm."""
_in_process = threading.Lock()


class Base(DeclarativeBase):
    """All tables."""


class Time(TypeDecorator[datetime]):
    """A moment, in UTC; SQLite keeps no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


def now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


class Database:
    """A pool of connections to an up-to-date schema; safe to share between threads.

    Args:
        url: of SQLAlchemy, `sqlite:///FILE` or `postgresql+psycopg://USER@HOST/NAME`.

    Raises:
        InvalidInput: an address that is neither.
        Unavailable: the server does not answer, or the file cannot be written.
    """

    def __init__(self, url: str) -> None:
        self.url = _known(url)
        self.engine = create_engine(self.url, pool_pre_ping=True)
        if self.is_sqlite:
            _prepare_sqlite(self.engine)
        with _explained(self.url):
            self._upgrade()

    @classmethod
    def of_file(cls, path: str | Path) -> "Database":
        """SQLite in this file, made if there is none."""
        return cls(f"sqlite:///{Path(path).resolve()}")

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: kept if the block ends, undone if it raises.

        SQLite lets one transaction in at a time (`BEGIN IMMEDIATE`), so what was read stays true
        until the end; on Postgres lock the rows that must not change (`with_for_update`).
        """
        maker = sessionmaker(self.engine, expire_on_commit=False)
        with _explained(self.url), maker.begin() as session:
            yield session

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def _upgrade(self) -> None:
        config = Config()
        config.set_main_option("script_location", "dncbm.database:migrations")
        with _in_process, self.engine.begin() as connection:
            if not self.is_sqlite:  # SQLite is locked by the transaction itself
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _known(url: str) -> URL:
    try:
        made = make_url(url)
        if made.get_backend_name() == "postgresql" and made.drivername == "postgresql":
            made = made.set(drivername="postgresql+psycopg")
        made.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise InvalidInput(
            f"The database address has a scheme that is not known here ({error}). Give "
            "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
        ) from error
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error}. Install it with: pip install 'dncbm[postgres]'.") from error
    if made.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidInput(
            f"A database of {made.get_backend_name()} is not supported. Give sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/NAME."
        )
    return made


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # we begin ourselves
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begun(connection: object) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # type: ignore[attr-defined]


@contextmanager
def _explained(url: URL) -> Iterator[None]:
    shown = url.render_as_string(hide_password=True)
    try:
        yield
    except OperationalError as error:
        raise Unavailable(
            f"The database {shown} does not answer: {str(error.orig).strip()}. See that the server "
            "runs, or that the file and its folder can be written."
        ) from error
    except SQLAlchemyError as error:
        logger.error("database %s: %s", shown, error)
        raise
