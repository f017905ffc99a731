"""Tables of edits; the audit log is `dncbm.database.audit`."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from dncbm.database import Base, Time


class EditRow(Base):
    """One edit of one model."""

    __tablename__ = "edits"
    __table_args__ = (
        Index("edits_of_model", "model", "fingerprint"),
        Index(
            "one_active_edit",
            "model",
            "fingerprint",
            unique=True,
            sqlite_where=text("status = 'active'"),
            postgresql_where=text("status = 'active'"),
        ),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model: Mapped[str] = mapped_column(String(200))
    fingerprint: Mapped[str] = mapped_column(String(64))
    parent: Mapped[int | None] = mapped_column(ForeignKey("edits.id"))
    operations: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    author: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(Time)
    status: Mapped[str] = mapped_column(String(20))
    evaluation: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class HeadRow(Base):
    """Which edit of a model is active; the version grows with every change of it."""

    __tablename__ = "edit_heads"

    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    active: Mapped[int | None] = mapped_column(ForeignKey("edits.id"))
    version: Mapped[int] = mapped_column(Integer)
