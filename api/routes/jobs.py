"""Pipelines in the background: submit, follow, cancel and retry them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from api.lifecycle import Lifecycle
from api.schemas.jobs import JobBody, JobList, JobOut, JobStatus, LogLine, LogList
from api.service import PagingDep, ServiceDep
from dncbm.errors import DncbmError, Unavailable
from dncbm.jobs.client import JobClient

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
"""A comment this often keeps proxies from closing a silent stream."""
_EDIT: dict[str, Any] = {"x-dncbm-scope": "edit"}
_SSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `progress` with a job when it changed, `log` with a "
        "line of its log, `end` when it is over.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


async def get_jobs(service: ServiceDep) -> JobClient:
    """The jobs of this service, if it has any."""
    if service.jobs is None:
        raise Unavailable(
            "This service runs no jobs. Start it with `dncbm serve FOLDER` on a folder of models "
            "that can be written, or set DNCBM_STATE_DIR to one."
        )
    return service.jobs


JobsDep = Annotated[JobClient, Depends(get_jobs)]


@router.post("", status_code=202, summary="Submit a job", openapi_extra=_EDIT)
def submit_job(body: JobBody, jobs: JobsDep) -> JobOut:
    """Queue a pipeline. Its configuration is checked now; a worker runs it."""
    job = jobs.submit(body.name, body.pipeline, body.config, priority=body.priority)
    return JobOut.of(job)


@router.get("", summary="List the jobs")
def list_jobs(jobs: JobsDep, paging: PagingDep, status: JobStatus | None = None) -> JobList:
    """All jobs, newest first."""
    found, total = jobs.list(status, limit=paging.limit, offset=paging.offset)
    return JobList(
        jobs=[JobOut.of(job) for job in found],
        **paging.bounds(total),  # type: ignore[arg-type]
    )


@router.get("/{job}", summary="Describe a job")
def describe_job(job: str, jobs: JobsDep) -> JobOut:
    """A job, its stages and how far they are."""
    return JobOut.of(jobs.get(job))


@router.get("/{job}/logs", summary="The log of a job")
def list_logs(job: str, jobs: JobsDep, paging: PagingDep) -> LogList:
    """The newest 2,000 lines of the log, oldest first."""
    lines, total = jobs.logs(job, limit=paging.limit, offset=paging.offset)
    return LogList(
        logs=[LogLine.of(line) for line in lines],
        **paging.bounds(total),  # type: ignore[arg-type]
    )


@router.get(
    "/{job}/events", summary="Follow a job", response_class=StreamingResponse, responses=_SSE
)
async def follow_job(job: str, jobs: JobsDep, service: ServiceDep) -> StreamingResponse:
    """Progress and log as server-sent events, until the job is over."""
    await run_in_threadpool(jobs.get, job)  # an unknown job is a 404, not a broken stream
    return StreamingResponse(
        _events(job, jobs, service.lifecycle),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.delete("/{job}", summary="Cancel a job", openapi_extra=_EDIT)
def cancel_job(job: str, jobs: JobsDep) -> JobOut:
    """Stop a job, or take it out of the queue. What it finished is kept for a retry."""
    return JobOut.of(jobs.cancel(job))


@router.post("/{job}/retry", status_code=202, summary="Retry a job", openapi_extra=_EDIT)
def retry_job(job: str, jobs: JobsDep) -> JobOut:
    """Queue a failed or cancelled job again; finished stages are not repeated."""
    return JobOut.of(jobs.retry(job))


async def _events(job: str, jobs: JobClient, lifecycle: Lifecycle) -> AsyncIterator[str]:
    """The stream; it ends with the service, or when the client leaves."""
    told, last, spoke = "", 0, time.monotonic()
    while not lifecycle.is_ending:
        try:
            found = await run_in_threadpool(jobs.get, job)
            lines = await run_in_threadpool(jobs.logs_after, job, last)
        except DncbmError as error:  # the database is away: the client may ask again
            yield _event("error", json.dumps({"detail": str(error)}))
            return
        state = JobOut.of(found).model_dump_json()
        news = [_event("log", LogLine.of(line).model_dump_json()) for line in lines]
        if state != told:
            news.append(_event("progress", state))
        elif not news and time.monotonic() - spoke >= HEARTBEAT_SECONDS:
            news.append(": the job goes on\n\n")
        if news:
            told, spoke = state, time.monotonic()
            last = lines[-1].id if lines else last
            yield "".join(news)
        if found.over and not lines:
            yield _event("end", "{}")
            return
        if not lines:
            await asyncio.sleep(POLL_SECONDS)


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
