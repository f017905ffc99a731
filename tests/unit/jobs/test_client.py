"""The client by itself, without a worker."""

from pathlib import Path

import pytest

from dncbm.errors import InvalidInput, Unavailable, UnknownName
from dncbm.jobs.client import JobClient
from dncbm.jobs.places import Places
from dncbm.jobs.runner import Meter
from tests.unit.jobs.conftest import Installation


def test_what_was_submitted_is_listed_newest_first(here: Installation) -> None:
    jobs = [here.submit(f"m{n}", priority=n) for n in range(4)]
    here.client.cancel(jobs[1])
    found, total = here.client.list(limit=2, offset=1)
    assert total == 4
    assert [job.id for job in found] == [jobs[2], jobs[1]]
    assert [job.priority for job in found] == [2, 1]
    found, total = here.client.list("cancelled")
    assert [job.id for job in found] == [jobs[1]]
    assert total == 1
    assert here.client.list("failed") == ([], 0)
    again = JobClient(here.client.places)  # what another process sees
    assert again.get(jobs[2]) == here.client.get(jobs[2])
    again.close()


def test_a_submitted_configuration_is_checked(here: Installation) -> None:
    job = here.client.submit("new", "discover", {"seed": 2}, priority=7)
    assert (job.status, job.config, job.priority) == ("queued", {"seed": 2}, 7)
    with pytest.raises(InvalidInput, match="Another job makes the model 'new'"):
        here.client.submit("New", "discover", {})
    here.client.cancel(job.id)
    assert here.client.submit("new", "discover", {}).status == "queued"
    with pytest.raises(UnknownName):
        here.client.submit("other", "nothing", {})
    with pytest.raises(InvalidInput, match="between -1000 and 1000"):
        here.client.submit("other", "discover", {}, priority=5000)


def test_unknown_jobs_and_impossible_changes(here: Installation) -> None:
    for call in (here.client.get, here.client.cancel, here.client.retry, here.client.logs):
        for name in ("nothing", "", "x" * 10_000, "a\0b"):
            with pytest.raises(UnknownName, match="Unknown job"):
                call(name)
    with pytest.raises(InvalidInput, match="is queued; only a failed or cancelled"):
        here.client.retry(here.submit())


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        Places.of(tmp_path, state=tmp_path / "file")
    places = Places.of(tmp_path)
    (places.state / "jobs.sqlite").write_text("this is no database" * 100)
    with pytest.raises(Unavailable, match="database of jobs"):
        JobClient(places)


def test_places_of_the_environment(tmp_path: Path) -> None:
    environment = {
        "DNCBM_MODEL_DIR": str(tmp_path),
        "DNCBM_STATE_DIR": str(tmp_path / "state"),
        "DNCBM_DATA_DIR": str(tmp_path / "data"),
        "DNCBM_JOBS_NETWORK": "true",
    }
    places = Places.from_environment(environment)
    assert places == Places(
        tmp_path,
        tmp_path / "state",
        f"sqlite:///{tmp_path}/state/dncbm.sqlite",
        tmp_path / "data",
        True,
    )
    for bad in ({}, {"DNCBM_MODEL_DIR": str(tmp_path / "nothing")}):
        with pytest.raises(InvalidInput):
            Places.from_environment(bad)


def test_the_rate_is_that_of_this_part_of_a_stage() -> None:
    meter = Meter()
    assert meter("photos", 100, 0.0) is None
    assert meter("photos", 150, 10.0) == 5.0
    assert meter("photos", 300, 20.0) == 10.0
    assert meter("steps", 1, 30.0) is None
    assert meter("steps", 3, 31.0) == 2.0
    assert meter("steps", 0, 40.0) is None  # a second autoencoder begins at its start
