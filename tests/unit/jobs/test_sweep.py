"""Working folders go when their jobs are over for long enough, and none goes before."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dncbm.database import now
from dncbm.errors import InvalidInput
from dncbm.jobs import sweep
from dncbm.jobs.liveness import process_locked
from dncbm.jobs.places import Places
from dncbm.jobs.sweep import sweep_work
from tests.unit.jobs.conftest import Installation, wait_for


def later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    monkeypatch.setattr(sweep, "now", lambda: now() + timedelta(hours=hours))


def failed_job(here: Installation, name: str = "model") -> str:
    here.fail("two")
    job = here.submit(name)
    here.await_status(job, "failed")
    here.mend("two")
    return job


def test_a_failed_jobs_folder_is_kept_for_its_time(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.worker()
    job = failed_job(here)
    assert sweep_work(here.client) == []
    later(monkeypatch, 167.9)
    assert sweep_work(here.client) == []
    assert here.work(job).is_dir()
    later(monkeypatch, 168.1)
    assert sweep_work(here.client) == [job]
    assert list(here.client.places.work_root.iterdir()) == []
    assert not here.client.places.job_lock(job).exists()
    assert here.client.get(job).status == "failed"  # it is still told of


def test_a_retry_without_the_folder_begins_with_the_first_stage(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.worker()
    job, kept = failed_job(here, "swept"), failed_job(here, "kept")
    later(monkeypatch, 1000)
    monkeypatch.setattr(
        here.client,
        "ended",
        lambda jobs, ended=here.client.ended: ended([j for j in jobs if j != kept]),
    )
    assert sweep_work(here.client) == [job]
    for one in (job, kept):
        here.client.retry(one)
        here.await_status(one, "succeeded")
    assert here.effects.count("swept one begin") == 2
    assert here.effects.count("kept one begin") == 1


def test_neither_running_nor_waiting_nor_retried_jobs_lose_theirs(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.worker()
    retried = failed_job(here, "retried")
    here.hold("one")
    running = here.submit("running")
    here.await_effect("running one begin")
    here.client.retry(retried)  # waits for the only place
    unknown = here.work("of-another-database")
    unknown.mkdir()
    later(monkeypatch, 1000)
    assert sweep_work(here.client) == []
    assert here.work(running).is_dir()
    assert here.work(retried).is_dir()
    assert unknown.is_dir()
    here.free("one")
    for job in (running, retried):
        here.await_status(job, "succeeded")


def test_a_retry_that_comes_in_between_gets_the_folder_back(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.worker()
    job = failed_job(here)
    later(monkeypatch, 1000)
    answers = iter([here.client.ended([job]), {}])  # over at the first look, queued at the second
    monkeypatch.setattr(here.client, "ended", lambda jobs: next(answers))
    assert sweep_work(here.client) == []
    assert [path.name for path in here.work(job).iterdir()] == ["model"]


def test_a_process_that_still_ends_keeps_it(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.worker()
    job = failed_job(here)
    later(monkeypatch, 1000)
    monkeypatch.setattr(sweep, "process_locked", lambda path: None)
    assert sweep_work(here.client) == []
    monkeypatch.setattr(sweep, "process_locked", process_locked)
    assert sweep_work(here.client) == [job]


def test_the_worker_sweeps_at_its_start_and_after_each_job(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = here.worker()
    job = failed_job(here)
    first.terminate()
    assert first.wait(60) == 0
    debris = here.client.places.work_root / f".{job}.old-0a0a0a0a"
    debris.mkdir()
    here.worker(keep_failed_hours=0)
    wait_for(lambda: not here.work(job).exists(), "the sweep at the start")
    wait_for(lambda: not debris.exists(), "the sweep of what an interrupted sweep left")
    other = here.submit("other", stages=("one",))
    here.await_status(other, "succeeded")
    wait_for(lambda: not here.work(other).exists(), "the sweep after a job")


@pytest.mark.parametrize("text", ["a week", "-1", "nan", "1e9"])
def test_hours_are_a_number(tmp_path: Path, text: str) -> None:
    variables = {"DNCBM_MODEL_DIR": str(tmp_path), "DNCBM_JOBS_KEEP_FAILED_HOURS": text}
    with pytest.raises(InvalidInput, match="must be a number of hours"):
        Places.from_environment(variables)
    assert Places.from_environment(variables | {"DNCBM_JOBS_KEEP_FAILED_HOURS": "2.5"}) == replace(
        Places.of(tmp_path), keep_failed_hours=2.5
    )
