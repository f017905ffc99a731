"""Removes the working folders of jobs that are over and that nobody took up again for long."""

import logging
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

from dncbm.database import now
from dncbm.files import LOCK, hidden, locked
from dncbm.files import sweep as sweep_debris
from dncbm.jobs.client import JobClient
from dncbm.jobs.liveness import process_locked

logger = logging.getLogger(__name__)

_OLD = "old"


def sweep_work(client: JobClient) -> list[str]:
    """Remove what is due below `Places.work_root`; ids of the jobs.

    A folder is due when its job succeeded (nothing of use is in it then), or failed or was
    cancelled at least `Places.keep_failed_hours` ago by the wall clock. Folders of jobs that run or
    wait, and of jobs that this database does not know, stay. A retry after that begins with the
    first stage.

    Raises:
        Unavailable: the database does not answer.
    """
    root = client.places.work_root
    if not root.is_dir():
        return []
    _sweep_interrupted(root)
    folders = [path for path in sorted(root.iterdir()) if path.name[:1] != "." and path.is_dir()]
    due = _due(client, [path.name for path in folders])
    removed = [path.name for path in folders if path.name in due and _removed(client, path)]
    if removed:
        logger.info("working folders of %d jobs that are over were removed", len(removed))
    return removed


def _due(client: JobClient, jobs: list[str]) -> set[str]:
    limit = now() - timedelta(hours=client.places.keep_failed_hours)
    ended = client.ended(jobs)
    return {job for job, (status, when) in ended.items() if _is_due(status, when, limit)}


def _is_due(status: str, when: datetime, limit: datetime) -> bool:
    return status == "succeeded" or when <= limit


def _removed(client: JobClient, folder: Path) -> bool:
    """Whether it is gone; not while a process of the job still ends, or a retry comes in between.

    Under another name first: who retries the job looks whether the folder is there, before and
    after the job is queued again.
    """
    job, retired = folder.name, hidden(folder, _OLD)
    lock = client.places.job_lock(job)
    held = process_locked(lock)
    if held is None:
        return False
    try:
        with held, locked(folder):
            os.replace(folder, retired)
            if job not in client.ended([job]):
                os.replace(retired, folder)
                (folder / LOCK).unlink(missing_ok=True)
                return False
            shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:  # another worker removes it
        logger.info("%s was not removed: %s", folder, error)
        return False
    finally:
        lock.unlink(missing_ok=True)
    return True


def _sweep_interrupted(root: Path) -> None:
    """What a worker left that was killed while it removed a folder."""
    marker = f".{_OLD}-"
    for path in list(root.iterdir()):
        if path.name.startswith(".") and marker in path.name:
            sweep_debris(root / path.name[1:].partition(marker)[0], _OLD)
