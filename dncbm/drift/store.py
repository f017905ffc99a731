"""Live statistics in the database, where every process adds its part."""

import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import final

import numpy as np
from sqlalchemy import BigInteger, Integer, LargeBinary, String, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from dncbm.database import Base, Database
from dncbm.database.engine import Time, now
from dncbm.drift.statistics import CodeStatistics
from dncbm.errors import ArtifactError


class DriftRow(Base):
    """Sums over the live images of one model; arrays are compressed little-endian numbers."""

    __tablename__ = "drift_statistics"

    fingerprint: Mapped[str] = mapped_column(String(100), primary_key=True)
    concepts: Mapped[int] = mapped_column(Integer)
    bins: Mapped[int] = mapped_column(Integer)
    images: Mapped[int] = mapped_column(BigInteger)
    active: Mapped[bytes] = mapped_column(LargeBinary)
    total: Mapped[bytes] = mapped_column(LargeBinary)
    squares: Mapped[bytes] = mapped_column(LargeBinary)
    histogram: Mapped[bytes] = mapped_column(LargeBinary)
    since: Mapped[datetime] = mapped_column(Time)
    updated: Mapped[datetime] = mapped_column(Time)


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """Statistics as the database has them."""

    statistics: CodeStatistics
    since: datetime
    """When the first of them was stored."""
    updated: datetime


_COUNTS, _SUMS = ("active", "histogram"), ("total", "squares")


class DriftStore:
    """Statistics by fingerprint of the reference that they are compared with."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, fingerprint: str, part: CodeStatistics) -> Stored:
        """Add what a process has counted since it last did; what then stands there.

        Raises:
            Unavailable: the database does not answer; nothing was added.
        """
        try:
            return self._added(fingerprint, part)
        except IntegrityError:  # another process stored the first part meanwhile
            return self._added(fingerprint, part)

    def read(self, fingerprint: str, edges: np.ndarray) -> Stored | None:
        """What stands there; None if nothing was counted yet."""
        with self._database.session() as session:
            row = session.get(DriftRow, fingerprint)
            return None if row is None else _stored(row, edges)

    def reset(self, fingerprint: str) -> None:
        """Forget what was counted."""
        with self._database.session() as session:
            session.execute(delete(DriftRow).where(DriftRow.fingerprint == fingerprint))

    def _added(self, fingerprint: str, part: CodeStatistics) -> Stored:
        with self._database.session() as session:
            row = _locked(session, fingerprint)
            if row is None:
                row = DriftRow(fingerprint=fingerprint, since=now())
                session.add(row)
                whole = part
            else:
                whole = _stored(row, part.edges).statistics + part
            _fill(row, whole)
            session.flush()
            return Stored(whole, row.since, row.updated)


def _locked(session: Session, fingerprint: str) -> DriftRow | None:
    query = select(DriftRow).where(DriftRow.fingerprint == fingerprint).with_for_update()
    return session.scalars(query).one_or_none()


def _fill(row: DriftRow, statistics: CodeStatistics) -> None:
    row.concepts, row.bins = statistics.histogram.shape
    row.images, row.updated = statistics.images, now()
    for name in _COUNTS:
        setattr(row, name, zlib.compress(getattr(statistics, name).astype("<i8").tobytes()))
    for name in _SUMS:
        setattr(row, name, zlib.compress(getattr(statistics, name).astype("<f8").tobytes()))


def _stored(row: DriftRow, edges: np.ndarray) -> Stored:
    shape = (row.concepts, row.bins)
    if shape != (edges.shape[0], edges.shape[1] + 1):
        raise ArtifactError(
            f"The database holds drift of {shape[0]} concepts in {shape[1]} bins; this model has "
            f"{edges.shape[0]} in {edges.shape[1] + 1}. Delete it and begin anew."
        )
    counts = {n: np.frombuffer(zlib.decompress(getattr(row, n)), "<i8") for n in _COUNTS}
    sums = {n: np.frombuffer(zlib.decompress(getattr(row, n)), "<f8") for n in _SUMS}
    statistics = CodeStatistics(
        edges=edges,
        images=row.images,
        active=counts["active"].astype(np.int64),
        histogram=counts["histogram"].astype(np.int64).reshape(shape),
        total=sums["total"].astype(np.float64),
        squares=sums["squares"].astype(np.float64),
    )
    return Stored(statistics, row.since, row.updated)
