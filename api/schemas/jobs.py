"""Jobs on the wire."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from api.schemas import Page, _Schema
from dncbm.jobs import records

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class JobBody(_Schema):
    """A pipeline to run."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        min_length=1,
        max_length=100,
        description="The model's directory is named after it.",
        examples=["clothing"],
    )
    pipeline: str = Field(
        max_length=100,
        description="`discover` is the whole: embed, discover, name, bottleneck, report. "
        "`embed` and `bcosify` stand for themselves; `sae`, `name`, `bottleneck` and `report` "
        "start from the model `config.model`, and run what follows too.",
        examples=["discover"],
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of a recipe, as `dncbm run` takes them; paths are relative to the "
        "service's data folder.",
        examples=[{"data": "clothing.zip", "sae": {"num_concepts": 512}}],
    )
    priority: int = Field(
        default=0, ge=-1000, le=1000, description="Larger ones are started first."
    )


class StageOut(_Schema):
    """One stage of a job; null where nothing is known yet."""

    name: str
    status: Literal["waiting", "running", "done", "failed"]
    done: int | None = Field(description="Of `total` of what the stage counts: photos, steps.")
    total: int | None
    rate: float | None = Field(description="Per second, while the stage runs.")
    eta_seconds: float | None
    error: str | None


class JobOut(_Schema):
    """A job and how far it is."""

    id: str
    name: str
    pipeline: str
    config: dict[str, Any]
    status: JobStatus
    priority: int
    created: datetime
    started: datetime | None
    finished: datetime | None
    stages: list[StageOut]
    error: str | None
    model: str | None = Field(description="Directory of the finished model.")

    @classmethod
    def of(cls, job: records.Job) -> "JobOut":
        """Wire form of a job."""
        return cls(
            id=job.id,
            name=job.name,
            pipeline=job.pipeline,
            config=job.config,
            status=job.status,
            priority=job.priority,
            created=job.created,
            started=job.started,
            finished=job.finished,
            stages=[
                StageOut(
                    name=stage.name,
                    status=stage.status,
                    done=stage.done,
                    total=stage.total,
                    rate=stage.rate,
                    eta_seconds=stage.eta_seconds,
                    error=stage.error,
                )
                for stage in job.stages
            ],
            error=job.error,
            model=job.model,
        )


class JobList(Page):
    """Jobs, newest first."""

    jobs: list[JobOut]


class LogLine(_Schema):
    """One line of a job's log."""

    time: datetime
    level: str
    message: str

    @classmethod
    def of(cls, line: records.LogRecord) -> "LogLine":
        """Wire form of a line."""
        return cls(time=line.time, level=line.level, message=line.message)


class LogList(Page):
    """Lines of a job's log, oldest first."""

    logs: list[LogLine]
