"""Tables: how far stages are, and what they logged."""

from datetime import datetime

from sqlalchemy import BigInteger, Float, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from dncbm.database import Base, Time

_Big = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up only what it calls an integer."""


class StageRow(Base):
    """The progress of a stage that was begun."""

    __tablename__ = "job_stage"

    job: Mapped[str] = mapped_column(String(100), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    started: Mapped[datetime] = mapped_column(Time)
    finished: Mapped[datetime | None] = mapped_column(Time)
    done: Mapped[int | None] = mapped_column(_Big)
    total: Mapped[int | None] = mapped_column(_Big)
    rate: Mapped[float | None] = mapped_column(Float)


class LogRow(Base):
    """A line of a job's log."""

    __tablename__ = "job_log"
    __table_args__ = (Index("ix_job_log_job_id", "job", "id"),)

    id: Mapped[int] = mapped_column(_Big, primary_key=True)
    job: Mapped[str] = mapped_column(String(100))
    time: Mapped[datetime] = mapped_column(Time)
    level: Mapped[str] = mapped_column(String(20))
    message: Mapped[str] = mapped_column(Text)
