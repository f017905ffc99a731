"""Tables of the registry: artifacts with their inputs and places, models, aliases."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from dncbm.database import Base, Time


class ArtifactRow(Base):
    """One artifact, whatever the number of directories that hold it; never removed."""

    __tablename__ = "artifacts"

    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), index=True)
    created: Mapped[datetime | None] = mapped_column(Time)
    dncbm_version: Mapped[str] = mapped_column(String(64))
    seed: Mapped[int | None] = mapped_column(BigInteger)
    encoder: Mapped[str | None] = mapped_column(Text)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    registered: Mapped[datetime] = mapped_column(Time)


class InputRow(Base):
    """What an artifact was made from; the input need not be an artifact."""

    __tablename__ = "artifact_inputs"

    artifact: Mapped[str] = mapped_column(ForeignKey("artifacts.fingerprint"), primary_key=True)
    role: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), index=True)


class PlaceRow(Base):
    """A directory that holds an artifact; gone when it vanished or holds another one."""

    __tablename__ = "artifact_places"

    path: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(ForeignKey("artifacts.fingerprint"), index=True)


class ModelRow(Base):
    """A model directory under an id that stays."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    path: Mapped[str] = mapped_column(Text, unique=True)
    cbm: Mapped[str] = mapped_column(ForeignKey("artifacts.fingerprint"), index=True)
    created: Mapped[datetime | None] = mapped_column(Time)
    registered: Mapped[datetime] = mapped_column(Time)
    state: Mapped[str] = mapped_column(String(16))


class AliasRow(Base):
    """What an alias stands for now."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    author: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    time: Mapped[datetime] = mapped_column(Time)


class AliasChangeRow(Base):
    """One change of an alias; without a model where it was removed. Only ever added to."""

    __tablename__ = "alias_changes"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(64), index=True)
    model: Mapped[str | None] = mapped_column(String(255))
    author: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    time: Mapped[datetime] = mapped_column(Time)


TABLES = (ArtifactRow, InputRow, PlaceRow, ModelRow, AliasRow, AliasChangeRow)
