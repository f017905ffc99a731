"""The worker: takes jobs from the queue of DBOS and runs them, each stage a step.

A finished stage is recorded by DBOS. When a worker dies, another one sees that its lock is free,
puts its jobs back into the queue, and goes on with the stage that was not recorded. A claim of
DBOS admits one worker, and what a former owner would still record is refused.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbos import DBOS, DBOSConfig

from dncbm.errors import DncbmError, InvalidInput, Unavailable
from dncbm.jobs import system
from dncbm.jobs.checks import PIPELINES
from dncbm.jobs.client import JobClient
from dncbm.jobs.liveness import locks_for, worker_name
from dncbm.jobs.records import Order
from dncbm.jobs.runner import Interrupted, RunningJob
from dncbm.jobs.sweep import sweep_work

logger = logging.getLogger(__name__)

MOST_DEATHS = 10
"""Workers that may die over a job before it counts as failed."""
_WATCH_SECONDS = 0.5
_LOOK_FOR_DEAD_EVERY = 4
_SWEEP_EVERY = 7200
"""Rounds of the watch: two seconds, and an hour; also at the start and after each job."""
_GRACE_SECONDS = 10


class ConnectionLost(Unavailable):
    """The worker's lock went with its connection: others may have its jobs, it must begin anew."""


class Executor:
    """Runs jobs until it is told to stop; one per process, since DBOS is.

    Args:
        client: of the installation.
        entry: `MODULE:FUNCTION` that does a stage, see `dncbm.jobs.stage_process`.
        concurrency: jobs at a time in this worker.
        total: jobs at a time in all workers together; None: no limit.
        pipelines: names of the pipelines that it can run.
        poll_seconds: how often it looks for a job.

    Raises:
        InvalidInput: a number below 1.
        Unavailable: a database does not answer.
    """

    def __init__(
        self,
        client: JobClient,
        entry: str,
        *,
        concurrency: int = 1,
        total: int | None = None,
        pipelines: tuple[str, ...] = tuple(PIPELINES),
        poll_seconds: float = 1.0,
    ) -> None:
        for what, number in (("concurrency", concurrency), ("total", total)):
            if number is not None and number < 1:
                raise InvalidInput(f"{what} is {number}; it must be at least 1.")
        self._client, self._entry = client, entry
        self._places = client.places
        self.name = worker_name()
        self._locks = locks_for(self._places.database, self._places.state)
        self._running: dict[str, RunningJob] = {}
        self._guard = threading.Lock()
        self._stopping, self._sweep_due = False, True
        self._limits = {"worker_concurrency": concurrency, "global_concurrency": total}
        self._pipelines, self._poll_seconds = pipelines, poll_seconds

    def run(self, stop: Callable[[], bool]) -> None:
        """Run jobs until `stop()`; then jobs that run go back into the queue.

        Raises:
            Unavailable: a database does not answer.
            ConnectionLost: the worker's lock was lost, after it ran.
        """
        if not self._locks.hold(self.name):
            raise Unavailable(f"Another worker is called {self.name}.")
        try:
            self._launch()
            self._watch(stop)
        finally:
            self._shut_down()

    def _launch(self) -> None:
        places = self._places
        config: DBOSConfig = {
            "name": system.APPLICATION,
            "system_database_url": system.system_url(places.database, places.state),
            "application_version": system.VERSION,
            "executor_id": self.name,
            "serializer": system.SERIALIZER,
            "log_level": "WARNING",
        }
        logging.getLogger("dbos").addFilter(system.quiet)
        DBOS(config=config)
        for pipeline in self._pipelines:
            DBOS.workflow(name=pipeline, max_recovery_attempts=MOST_DEATHS)(self._workflow())
        with system.explained():
            DBOS.launch()
            DBOS.register_queue(
                system.QUEUE,
                polling_interval_sec=self._poll_seconds,
                on_conflict="always_update",
                **self._limits,  # type: ignore[arg-type]
            )

    def _workflow(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def run_job(order: dict[str, Any]) -> dict[str, Any]:
            return self._run_job(str(DBOS.workflow_id), Order.of(order))

        return run_job

    def _run_job(self, job: str, order: Order) -> dict[str, Any]:
        """The workflow: every stage a step, whose result is recorded."""
        places = self._places
        table = {
            **order.as_dict(),
            "id": job,
            "work": str(places.work(job, order.model)),
            "models": str(places.models),
            "database": places.database,
        }
        with self._entered(job) as running:
            for position, stage in enumerate(order.stages):
                DBOS.run_step({"name": stage}, running.stage, position, stage, table)
        return {"model": order.model}

    @contextmanager
    def _entered(self, job: str) -> Iterator[RunningJob]:
        """Register a job; an earlier run of it here, which has lost it, ends first."""
        lock = self._places.job_lock(job)
        running = RunningJob(job, self._entry, lock, self._client.journal)
        while True:
            with self._guard:
                if self._stopping:
                    raise Interrupted
                earlier = self._running.setdefault(job, running)
            if earlier is running:
                break
            earlier.interrupt()
            earlier.ended.wait()
        try:
            yield running
        finally:
            running.close()
            lock.unlink(missing_ok=True)
            with self._guard:
                self._running.pop(job)
            running.ended.set()
            self._sweep_due = True

    def _watch(self, stop: Callable[[], bool]) -> None:
        """Until `stop()`: end what is no longer ours, and take over what the dead left."""
        rounds = 0
        while not stop():
            if not self._locks.intact():
                raise ConnectionLost("The connection to the database was lost; jobs go on later.")
            try:
                self._client.places.show_worker()
                self._end_what_is_lost()
                if rounds % _LOOK_FOR_DEAD_EVERY == 0:
                    self._take_over()
                if self._sweep_due or rounds % _SWEEP_EVERY == 0:
                    self._sweep_due = False
                    sweep_work(self._client)
            except DncbmError as error:
                logger.warning("%s", error)
            for running in self._now_running():
                running.flush()
            rounds += 1
            time.sleep(_WATCH_SECONDS)

    def _now_running(self) -> list[RunningJob]:
        with self._guard:
            return list(self._running.values())

    def _end_what_is_lost(self) -> None:
        jobs = self._now_running()
        owners = self._client.owners([running.job for running in jobs]) if jobs else {}
        for running in jobs:
            if owners.get(running.job) != ("PENDING", self.name):
                logger.info("job %s was cancelled or given away", running.job)
                running.interrupt()

    def _take_over(self) -> None:
        """Put the jobs of dead workers back into the queue."""
        workers = {worker for _, worker in self._client.owners().values() if worker}
        for worker in workers - {self.name}:
            with self._locks.claimed(worker) as dead:
                if dead:
                    logger.info("worker %s is dead; its jobs are taken over", worker)
                    # unlike a resume, it counts the deaths, and touches nothing but jobs that
                    # this worker still owns
                    with system.explained():
                        DBOS._recover_pending_workflows([worker])

    def _shut_down(self) -> None:
        with self._guard:
            self._stopping = True
        for running in self._now_running():
            running.interrupt()
        DBOS.destroy(workflow_completion_timeout_sec=_GRACE_SECONDS)
        try:
            for job, (_, worker) in self._client.owners().items():
                if worker == self.name:
                    self._client.put_back(job)
        except DncbmError as error:  # the next worker finds this one dead
            logger.warning("%s", error)
        self._locks.close()
