"""`dncbm jobs ...` and `dncbm worker`."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dncbm.errors import DncbmError
from pipelines.cli_parts import AsJson, Verbose, print_json
from pipelines.console import configure_logging, stderr, stdout
from pipelines.recipes import read_table

jobs = typer.Typer(no_args_is_help=True, help="Pipelines that run in the background.")

Models = Annotated[
    Path | None,
    typer.Option(
        "--root", help="The folder of the models; default: $DNCBM_MODEL_DIR.", show_default=False
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As `jobs submit` printed it.")]
_FOLLOW_SECONDS = 0.5


def add_to(app: typer.Typer) -> None:
    """Give a command line these commands."""
    app.add_typer(jobs, name="jobs")
    app.command()(worker)


def _client(models: Path | None) -> Any:
    from dncbm.jobs.client import JobClient  # heavy: only where jobs are meant
    from dncbm.jobs.places import Places

    return JobClient(Places.from_environment(os.environ, models))


@jobs.command()
def submit(
    config: Annotated[Path, typer.Argument(help="Recipe in TOML or JSON.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the model; default: the file's, or that of `out`.")
    ] = None,
    pipeline: Annotated[
        str, typer.Option(help="discover (everything), embed, sae, name, bottleneck, report, ...")
    ] = "discover",
    priority: Annotated[int, typer.Option(help="Larger ones are started first.")] = 0,
    models: Models = None,
    as_json: AsJson = False,
) -> None:
    """Queue a pipeline; a worker runs it."""
    values = read_table(config)
    out = values.pop("out", None)
    chosen = name or (Path(str(out)).name if out else config.stem)
    client = _client(models)
    job = client.submit(
        chosen, values.pop("pipeline", pipeline), values, priority=priority,
        base=config.resolve().parent,
    )  # fmt: skip
    if as_json:
        print_json(as_table(job))
    else:
        stdout.print(f"{job.id}  {job.name}: queued. Follow it: dncbm jobs show {job.id} --follow")


@jobs.command(name="list")
def list_jobs(
    status: Annotated[
        str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest jobs to list.")] = 50,
    models: Models = None,
    as_json: AsJson = False,
) -> None:
    """The jobs, newest first."""
    found, total = _client(models).list(status, limit=limit)
    if as_json:
        print_json({"jobs": [as_table(job) for job in found], "total": total})
        return
    table = Table("id", "name", "pipeline", "status", "stage", "created")
    for job in found:
        created = f"{job.created.astimezone():%Y-%m-%d %H:%M}"
        table.add_row(job.id, job.name, job.pipeline, job.status, _stage_of(job), created)
    stdout.print(table)


@jobs.command()
def show(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it is over.")] = False,
    models: Models = None,
    as_json: AsJson = False,
) -> None:
    """One job and its stages; with --follow its progress and log, until it is over."""
    client = _client(models)
    found = client.get(job)
    if follow:
        found = _followed(client, job)
    if as_json:
        print_json(as_table(found))
    else:
        _show(found)
    if follow and found.status != "succeeded":
        raise DncbmError(f"The job {found.id} has {found.status}. {found.error or ''}".rstrip())


def _followed(client: Any, job: str) -> Any:
    last, told = 0, ""
    while True:
        found = client.get(job)
        for line in client.logs_after(job, last):
            last = line.id
            stderr.print(f"{line.level}: {line.message}")
        text = _stage_of(found)
        if text != told:
            stderr.print(text or found.status)
            told = text
        if found.over:
            return found
        time.sleep(_FOLLOW_SECONDS)


@jobs.command()
def logs(job: JobId, models: Models = None, as_json: AsJson = False) -> None:
    """The log of a job."""
    client = _client(models)
    lines, _ = client.logs(job, limit=100_000)
    if as_json:
        print_json({"logs": [_line(line) for line in lines]})
        return
    for line in lines:
        stdout.print(f"{line.time.astimezone():%Y-%m-%d %H:%M:%S} {line.level} {line.message}")


@jobs.command()
def cancel(job: JobId, models: Models = None, as_json: AsJson = False) -> None:
    """Stop a job; what it finished is kept for a retry."""
    _changed(_client(models).cancel(job), as_json)


@jobs.command()
def retry(job: JobId, models: Models = None, as_json: AsJson = False) -> None:
    """Queue a failed or cancelled job again, from the stage that was not finished."""
    _changed(_client(models).retry(job), as_json)


def worker(
    models: Annotated[
        Path | None, typer.Argument(metavar="[MODELS]", help="Model root; $DNCBM_MODEL_DIR.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Jobs at a time here.")] = 1,
    total: Annotated[
        int | None, typer.Option(help="Jobs at a time in all workers together.")
    ] = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when the parent process does.", hidden=True)
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Run queued jobs until stopped (Ctrl-C); a killed worker's jobs go on in the next one."""
    from dncbm.jobs.places import Places
    from pipelines.worker import work

    configure_logging(verbose=verbose)
    places = Places.from_environment(os.environ, models)
    work(places, concurrency=concurrency, total=total, with_parent=with_parent)


def _changed(job: Any, as_json: bool) -> None:
    if as_json:
        print_json(as_table(job))
    else:
        stdout.print(f"{job.id}  {job.name}: {job.status}")


def as_table(job: Any) -> dict[str, Any]:
    """A job as JSON values, as the service has it."""
    table: dict[str, Any] = dataclasses.asdict(job)
    for name in ("created", "started", "finished"):
        table[name] = table[name] and table[name].isoformat()
    return table


def _line(line: Any) -> dict[str, Any]:
    return {"time": line.time.isoformat(), "level": line.level, "message": line.message}


def _stage_of(job: Any) -> str:
    """The stage that runs or failed, with how far it is."""
    for stage in job.stages:
        if stage.status in ("running", "failed"):
            text = stage.name if stage.status == "running" else f"{stage.name} failed"
            if stage.total:
                text += f" {stage.done:,}/{stage.total:,}"
            if stage.eta_seconds is not None:
                text += f" ({stage.rate:,.3g}/s, ETA {stage.eta_seconds:.0f} s)"
            return text
    return ""


def _show(job: Any) -> None:
    stdout.print(f"{job.id}  {job.name} ({job.pipeline}): {job.status}")
    table = Table("stage", "status", "done", "total")
    for stage in job.stages:
        counts = ["" if number is None else f"{number:,}" for number in (stage.done, stage.total)]
        table.add_row(stage.name, stage.status, *counts)
    stdout.print(table)
    if job.error:
        stdout.print(job.error)
    if job.model:
        stdout.print(f"Model: {job.model}")
