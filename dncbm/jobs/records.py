"""What is told of a job."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
StageStatus = Literal["waiting", "running", "done", "failed"]

OVER: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")
"""States that no worker changes any more."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a job; `done` of `total` of what it counts (photos, steps, ...)."""

    name: str
    status: StageStatus
    done: int | None = None
    total: int | None = None
    rate: float | None = None
    """Of what is counted, per second."""
    eta_seconds: float | None = None
    """Until this part of the stage is done."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A pipeline that was submitted."""

    id: str
    name: str
    pipeline: str
    config: dict[str, Any]
    status: JobStatus
    priority: int
    """Larger ones are started first."""
    created: datetime
    started: datetime | None
    finished: datetime | None
    stages: tuple[Stage, ...]
    error: str | None
    model: str | None
    """Name of the finished directory below the model root; None before."""

    @property
    def over(self) -> bool:
        """Whether no worker changes it any more."""
        return self.status in OVER


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of a job's log."""

    id: int
    """Grows with time."""
    time: datetime
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is, as it is stored."""

    position: int
    started: datetime
    finished: datetime | None = None
    done: int | None = None
    total: int | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is given: the input of a workflow, as JSON."""

    name: str
    pipeline: str
    model: str
    """Name of the directory to make."""
    stages: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "pipeline": self.pipeline,
            "model": self.model,
            "stages": list(self.stages),
            "config": self.config,
        }

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Order":
        """From JSON values."""
        return cls(**{**values, "stages": tuple(values["stages"])})
