"""What both doors do with jobs: submit, list, follow, cancel and retry them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dbos import DBOSClient, EnqueueOptions, WorkflowStatus
from dbos import error as dbos_errors

from dncbm.database import Database
from dncbm.errors import InvalidInput, UnknownName
from dncbm.jobs import system
from dncbm.jobs.checks import checked
from dncbm.jobs.journal import Journal
from dncbm.jobs.places import Places
from dncbm.jobs.records import (
    OVER,
    Job,
    JobStatus,
    LogRecord,
    Order,
    Progress,
    Stage,
    StageStatus,
)

PRIORITIES = (-1000, 1000)
"""Smallest and largest; larger ones are started first."""


class JobClient:
    """The jobs of an installation; safe to share between threads.

    Args:
        places: where jobs read and write; its database, and the one of DBOS, are made here if
            there are none.

    Raises:
        InvalidInput: the address of the database is none.
        Unavailable: a database does not answer, or cannot be written.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self._database = Database(places.database)
        self.journal = Journal(self._database)
        url = system.system_url(places.database, places.state)
        system.prepare(url)
        with system.explained():
            self._dbos = DBOSClient(
                system_database_url=url,
                serializer=system.SERIALIZER,
                application_name=system.APPLICATION,
                retry_connection_errors=False,
            )

    def submit(
        self,
        name: str,
        pipeline: str,
        config: Mapping[str, Any],
        *,
        priority: int = 0,
        base: Path | None = None,
    ) -> Job:
        """Queue a pipeline.

        Args:
            name: from which the model's directory is named.
            pipeline: one of `dncbm.jobs.checks.PIPELINES`.
            config: fields of a recipe; `model`, where the pipeline starts from a model.
            priority: larger ones are started first.
            base: folder of relative paths, of a caller who may read everything on this machine;
                None confines the job to the data folder.

        Raises:
            UnknownName: a pipeline, field, preset or encoder that there is not.
            InvalidInput: a value that breaks a rule, or a model of that name that is, or is
                being, made.
        """
        if not PRIORITIES[0] <= priority <= PRIORITIES[1]:
            raise InvalidInput(
                f"priority is {priority}; it must lie between {PRIORITIES[0]} and {PRIORITIES[1]}."
            )
        order = checked(name, pipeline, config, self.places, base=base)
        return self.enqueue(order, priority)

    def enqueue(self, order: Order, priority: int = 0) -> Job:
        """Queue an order that was checked.

        Raises:
            InvalidInput: a model of that name is being made.
        """
        options: EnqueueOptions = {
            "workflow_name": order.pipeline,
            "queue_name": system.QUEUE,
            "priority": PRIORITIES[1] - priority,  # of DBOS: 0 is first
            "deduplication_id": order.model,
        }
        with system.explained(), _one_at_a_time(order):
            handle: Any = self._dbos.enqueue(options, order.as_dict())
            return self.get(handle.workflow_id)

    def list(
        self, status: JobStatus | None = None, *, limit: int = 50, offset: int = 0
    ) -> tuple[Sequence[Job], int]:
        """Jobs, newest first, and how many there are in all."""
        states = [theirs for theirs, ours in system.STATUS.items() if ours == status]
        with system.explained():
            found = self._dbos.list_workflows(
                status=states or None, sort_desc=True, load_input=False, load_output=False
            )
            ids = [item.workflow_id for item in found]
            part = ids[offset : offset + limit]
            return self._jobs(part), len(ids)

    def get(self, job: str) -> Job:
        """One job.

        Raises:
            UnknownName: no such job.
        """
        with system.explained():
            found = self._jobs([job]) if job.strip() else []
            if not found:
                recent = [item.id for item in self.list(limit=100)[0]]
                raise UnknownName("job", job[:100], recent)
            return found[0]

    def _jobs(self, ids: Sequence[str]) -> Sequence[Job]:
        if not ids:
            return []
        found = {item.workflow_id: item for item in self._dbos.list_workflows(workflow_ids=[*ids])}
        begun = self.journal.progress(ids)
        return [_job(found[i], begun.get(i, [])) for i in ids if i in found]

    def logs(
        self, job: str, *, limit: int = 50, offset: int = 0
    ) -> tuple[Sequence[LogRecord], int]:
        """Lines of a job's log, oldest first, and how many there are.

        Raises:
            UnknownName: no such job.
        """
        self.get(job)
        lines = self.journal.lines(job, limit=limit, offset=offset)
        return lines, self.journal.count_lines(job)

    def logs_after(self, job: str, last: int, *, limit: int = 500) -> Sequence[LogRecord]:
        """Lines that came after the one with the id `last`, oldest first."""
        return self.journal.lines(job, limit=limit, after=last)

    def cancel(self, job: str) -> Job:
        """Stop a job, or take it out of the queue; what it finished is kept for a retry.

        Raises:
            UnknownName: no such job.
            InvalidInput: it is over.
        """
        found = self.get(job)
        if found.status in ("succeeded", "failed"):
            raise InvalidInput(f"The job {job} has {found.status} already; nothing to cancel.")
        with system.explained():
            self._dbos.cancel_workflow(job)
        return self.get(job)

    def retry(self, job: str) -> Job:
        """Queue a failed or cancelled job again; stages that were finished are not repeated.

        Where what they made is gone (it was kept for `Places.keep_failed_hours`), all are.

        Raises:
            UnknownName: no such job.
            InvalidInput: it neither failed nor was cancelled.
        """
        found = self.get(job)
        if found.status not in ("failed", "cancelled"):
            raise InvalidInput(
                f"The job {job} is {found.status}; only a failed or cancelled one can be retried."
            )
        with system.explained():
            try:
                self._retry(job)
            except dbos_errors.DBOSException as error:  # somebody else was quicker
                raise InvalidInput(f"The job {job} cannot be retried: {error}") from error
        return self.get(job)

    def _retry(self, job: str) -> None:
        is_lost = self._has_lost_work(job)
        steps = self._dbos.list_workflow_steps(job)
        failed = [step["function_id"] for step in steps if step["error"] is not None]
        if is_lost:
            self._dbos.rewind_workflow(job, start_step=1, queue_name=system.QUEUE)
        elif self._found(job).status == "ERROR":
            first = min(failed, default=len(steps) + 1)
            self._dbos.rewind_workflow(job, start_step=first, queue_name=system.QUEUE)
        else:
            self._dbos.resume_workflow(job, queue_name=system.QUEUE)
        if not is_lost and self._has_lost_work(job):  # it was removed at this very moment
            self._dbos.cancel_workflow(job)
            self._dbos.rewind_workflow(job, start_step=1, queue_name=system.QUEUE)

    def _has_lost_work(self, job: str) -> bool:
        """Whether stages are done whose results are gone.

        The last one gives the folder another place, and goes on from wherever it was stopped.
        """
        order = Order.of(self._found(job, with_input=True).input["args"][0])
        steps = self._dbos.list_workflow_steps(job)
        done = sum(step["error"] is None for step in steps)
        if done == 0 or self.places.work(job, order.model).exists():
            return False
        return done < len(order.stages) - 1 or not self.places.target(order.model).exists()

    def _found(self, job: str, *, with_input: bool = False) -> Any:
        return self._dbos.list_workflows(workflow_ids=[job], load_input=with_input)[0]

    def ended(self, jobs: Sequence[str]) -> dict[str, tuple[JobStatus, datetime]]:
        """How and when those of these jobs ended that are over."""
        with system.explained():
            found = (
                self._dbos.list_workflows(workflow_ids=[*jobs], load_input=False, load_output=False)
                if jobs
                else []
            )
        return {
            item.workflow_id: (system.STATUS[item.status], moment)
            for item in found
            if system.STATUS[item.status] in OVER
            and (moment := _moment(item.completed_at or item.updated_at)) is not None
        }

    def owners(self, jobs: Sequence[str] | None = None) -> dict[str, tuple[str, str | None]]:
        """State (of DBOS) and worker of these jobs; without ids, of all that run."""
        with system.explained():
            found = self._dbos.list_workflows(
                workflow_ids=None if jobs is None else [*jobs],
                status=None if jobs else "PENDING",
                load_input=False,
                load_output=False,
            )
        return {item.workflow_id: (item.status, item.executor_id) for item in found}

    def put_back(self, job: str) -> None:
        """Queue a job again that its worker gives up."""
        with system.explained():
            self._dbos.resume_workflow(job, queue_name=system.QUEUE)

    @property
    def database(self) -> Database:
        """Of progress and logs."""
        return self._database

    def close(self) -> None:
        """Give all connections back."""
        self._dbos.destroy()
        self._database.close()


@contextmanager
def _one_at_a_time(order: Order) -> Iterator[None]:
    try:
        yield
    except dbos_errors.DBOSQueueDeduplicatedError as error:
        raise InvalidInput(
            f"Another job makes the model {order.model!r} already. Choose another name, or cancel "
            "that job."
        ) from error


def _job(found: WorkflowStatus, begun: list[Progress]) -> Job:
    order = Order.of(found.input["args"][0]) if found.input else Order("", found.name, "", ())
    status = system.STATUS[found.status]
    error = None
    if status == "failed":
        error = str(found.error) if found.error else _DIED
    started = begun[0].started if begun else None
    return Job(
        id=found.workflow_id,
        name=order.name,
        pipeline=order.pipeline,
        config=order.config,
        status=status,
        priority=PRIORITIES[1] - (found.priority or 0),
        created=_moment(found.created_at) or datetime.now(UTC),
        started=started,
        finished=_end(found.completed_at, started),
        stages=_stages(order.stages, begun, status, error),
        error=error,
        model=order.model if status == "succeeded" else None,
    )


_DIED = (
    "Its worker died again and again while it ran: most often for want of memory. Give it less to "
    "do (batch_size, workers) or more memory, then retry."
)


def _stages(
    names: tuple[str, ...], begun: list[Progress], status: JobStatus, error: str | None
) -> tuple[Stage, ...]:
    """What is known of each stage: stages run in order, so all before the last begun are done."""
    if status == "succeeded":
        return tuple(_stage(name, "done", progress) for name, progress in _paired(names, begun))
    last = begun[-1].position if begun else -1
    out = []
    for position, (name, progress) in enumerate(_paired(names, begun)):
        state: StageStatus = "waiting"
        if position < last or (progress is not None and progress.finished is not None):
            state = "done"
        elif position == last and status in ("running", "failed"):
            state = "running" if status == "running" else "failed"
        out.append(_stage(name, state, progress, error if state == "failed" else None))
    return tuple(out)


def _paired(names: tuple[str, ...], begun: list[Progress]) -> list[tuple[str, Progress | None]]:
    known = {item.position: item for item in begun}
    return [(name, known.get(position)) for position, name in enumerate(names)]


def _stage(
    name: str, status: StageStatus, progress: Progress | None, error: str | None = None
) -> Stage:
    if progress is None or status == "waiting":
        return Stage(name, status, error=error)
    eta = None
    if status == "running" and progress.rate and None not in (progress.done, progress.total):
        eta = max(0.0, (progress.total or 0) - (progress.done or 0)) / progress.rate
    rate = progress.rate if status == "running" else None
    return Stage(name, status, progress.done, progress.total, rate, eta, error)


def _end(milliseconds: int | None, started: datetime | None) -> datetime | None:
    """When a job ended, and never before it began: on SQLite the engine tells whole seconds."""
    moment = _moment(milliseconds)
    return max(moment, started) if moment and started else moment


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
