"""Who changed what and when: a list that only grows, in which every entry seals those before.

The hash of an entry is SHA-256 over the hash before it and the entry in canonical JSON. An entry
that is changed, taken out or put in later breaks the chain there; a last row of its own tells how
many entries there are, which shows a list that was cut. Triggers refuse changes, too. Somebody who
may drop triggers could write the whole list anew: whoever fears that keeps the last hash elsewhere.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sqlalchemy import Integer, String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from dncbm.database.engine import Base, Database, now

START = "0" * 64
"""What stands in place of a hash before the first entry."""
_AT_ONCE = 1000


class AuditRow(Base):
    """One entry; every column but `hash` is sealed by it."""

    __tablename__ = "audit_log"

    n: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    time: Mapped[str] = mapped_column(String(40))
    author: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(100))
    subject: Mapped[str] = mapped_column(String(500))
    detail: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditEnd(Base):
    """How many entries there are and the hash of the last; one row, whose lock orders writers."""

    __tablename__ = "audit_end"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    entries: Mapped[int] = mapped_column(Integer)
    hash: Mapped[str] = mapped_column(String(64))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """One change."""

    n: int
    """From 1, without gaps."""
    time: str
    """ISO 8601, UTC."""
    author: str
    action: str
    """For example `edit.activate`."""
    subject: str
    """What was changed, for example the id of a model."""
    detail: dict[str, Any]
    hash: str


@final
@dataclass(frozen=True, slots=True)
class AuditCheck:
    """Whether the list is as it was written."""

    intact: bool
    entries: int
    broken_at: int | None
    """Number of the first entry that is not, or that is missing."""
    hash: str
    """Of the last entry that is."""


def append_audit(
    session: Session, *, author: str, action: str, subject: str, detail: Mapping[str, Any]
) -> None:
    """Write an entry in the transaction of the change itself: both are kept, or neither."""
    end = session.scalars(select(AuditEnd).where(AuditEnd.id == 1).with_for_update()).one()
    row = AuditRow(
        n=end.entries + 1,
        time=now().isoformat(),
        author=author,
        action=action,
        subject=subject,
        detail=_canonical(dict(detail)),
        previous=end.hash,
    )
    row.hash = _seal(row)
    session.add(row)
    end.entries, end.hash = row.n, row.hash


@final
class AuditLog:
    """Reading the list; `append_audit` is the only way to write."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, *, limit: int, offset: int) -> tuple[int, list[AuditEntry]]:
        """How many entries there are, and some of them, newest first."""
        with self._database.session() as session:
            total = session.scalar(select(func.count()).select_from(AuditRow)) or 0
            newest = select(AuditRow).order_by(AuditRow.n.desc()).limit(limit).offset(offset)
            return total, [_entry(row) for row in session.scalars(newest)]

    def verify(self) -> AuditCheck:
        """Compute the chain again and find the first entry that does not belong to it."""
        with self._database.session() as session:
            # Writers change this row first, so none comes in between while it is locked.
            end = session.get(AuditEnd, 1, with_for_update=True)
            rows = session.scalars(
                select(AuditRow).order_by(AuditRow.n).execution_options(yield_per=_AT_ONCE)
            )
            last, good, total = START, 0, 0
            for row in rows:
                total += 1
                whole = good == total - 1 and row.n == total and row.previous == last
                if whole and row.hash == _seal(row):
                    last, good = row.hash, total
            told = (end.entries, end.hash) if end is not None else (0, START)
        if good == total and told == (good, last):
            return AuditCheck(True, total, None, last)
        return AuditCheck(False, total, _first_wrong(good, total, told), last)


def _first_wrong(good: int, total: int, told: tuple[int, str]) -> int:
    if good < total or told[0] > total:
        return good + 1  # a wrong entry, or the first of those that were cut off
    return told[0] + 1 if told[0] < total else max(total, 1)


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        n=row.n,
        time=row.time,
        author=row.author,
        action=row.action,
        subject=row.subject,
        detail=_parsed(row.detail),
        hash=row.hash,
    )


def _parsed(detail: str) -> dict[str, Any]:
    """What was written; where somebody has tampered, the text as it stands."""
    try:
        value = json.loads(detail)
    except json.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"damaged": detail}


def _seal(row: AuditRow) -> str:
    fields: Sequence[Any] = (row.n, row.time, row.author, row.action, row.subject, row.detail)
    return hashlib.sha256((row.previous + _canonical(list(fields))).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
