"""Progress and logs of jobs in the database: they survive a worker, and are cheap to poll."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from dncbm.database import Database
from dncbm.jobs.records import LogRecord, Progress
from dncbm.jobs.tables import LogRow, StageRow

MOST_LINES = 2000
"""Lines kept per job; the oldest go first."""
MOST_CHARACTERS = 4000
"""Of one line."""

Line = tuple[datetime, str, str]
"""Time, level, message."""


class Journal:
    """Reads and writes what jobs report on the way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, job: str, progress: Progress) -> None:
        """A stage begins: what an earlier try said of it, and of later ones, is forgotten."""
        with self._database.session() as session:
            late = StageRow.position >= progress.position
            session.execute(delete(StageRow).where(StageRow.job == job, late))
            session.add(StageRow(job=job, **asdict(progress)))

    def record(self, job: str, progress: Progress) -> None:
        """How far a stage is now."""
        with self._database.session() as session:
            session.merge(StageRow(job=job, **asdict(progress)))

    def progress(self, jobs: Sequence[str]) -> dict[str, list[Progress]]:
        """The stages that were begun, in order, of each of these jobs."""
        found: dict[str, list[Progress]] = defaultdict(list)
        with self._database.session() as session:
            query = select(StageRow).where(StageRow.job.in_(jobs)).order_by(StageRow.position)
            for row in session.scalars(query):
                values = {name: getattr(row, name) for name in Progress.__dataclass_fields__}
                found[row.job].append(Progress(**values))
        return found

    def log(self, job: str, lines: Sequence[Line]) -> None:
        """Add lines, and drop the oldest beyond `MOST_LINES`."""
        if not lines:
            return
        values = [
            {"job": job, "time": time, "level": level[:20], "message": text[:MOST_CHARACTERS]}
            for time, level, text in lines
        ]
        with self._database.session() as session:
            session.execute(insert(LogRow), values)
            _prune(session, job)

    def lines(self, job: str, *, limit: int, offset: int = 0, after: int = 0) -> list[LogRecord]:
        """Lines in the order they came, those with an id above `after`."""
        with self._database.session() as session:
            query = select(LogRow).where(LogRow.job == job, LogRow.id > after)
            rows = session.scalars(query.order_by(LogRow.id).limit(limit).offset(offset)).all()
        return [LogRecord(row.id, row.time, row.level, row.message) for row in rows]

    def count_lines(self, job: str) -> int:
        """Lines kept of a job."""
        with self._database.session() as session:
            query = select(func.count()).select_from(LogRow).where(LogRow.job == job)
            return session.scalar(query) or 0


def _prune(session: Session, job: str) -> None:
    ids = select(LogRow.id).where(LogRow.job == job).order_by(LogRow.id.desc())
    newest_to_drop = session.scalar(ids.offset(MOST_LINES).limit(1))
    if newest_to_drop is not None:
        session.execute(delete(LogRow).where(LogRow.job == job, LogRow.id <= newest_to_drop))
