"""The routes of jobs, on a real database and without a worker."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.asgi import open_database, places_of
from api.lifecycle import Lifecycle
from api.main import create_app
from api.registry import Registry, serve_model
from api.routes import jobs as routes
from api.settings import Settings
from dncbm.errors import Unavailable
from dncbm.jobs.client import JobClient
from dncbm.jobs.places import Places
from dncbm.jobs.records import Progress
from tests.api.conftest import OPTIONS, TestClient, client_for
from tests.api.fakes import FakePredictor


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobClient]:
    (tmp_path / "data" / "photos").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    client = JobClient(Places.of(tmp_path / "models", data=tmp_path / "data"))
    yield client
    client.close()


@pytest.fixture
def http(jobs: JobClient, model_dir: Path, predictor: FakePredictor) -> Iterator[TestClient]:
    registry = Registry([serve_model("clothing", model_dir, predictor)])
    with client_for(create_app(registry, OPTIONS, jobs=jobs)) as client:
        yield client


def submit(http: TestClient, name: str = "shop", **changes: object) -> dict:
    body = {"name": name, "pipeline": "discover", "config": {"data": "photos"}} | changes
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_job_is_submitted_listed_and_described(http: TestClient, jobs: JobClient) -> None:
    job = submit(http, priority=3)
    assert job["status"] == "queued"
    assert job["priority"] == 3
    assert job["config"] == {"data": f"{jobs.places.data}/photos"}
    assert [stage["name"] for stage in job["stages"]][:2] == ["embed", "discover"]
    assert {stage["status"] for stage in job["stages"]} == {"waiting"}
    assert http.get(f"/v1/jobs/{job['id']}").json() == job
    submit(http, "second")
    listed = http.get("/v1/jobs", params={"limit": 1}).json()
    assert listed["total"] == 2
    assert listed["jobs"][0]["name"] == "second"
    rest = http.get(listed["next"]).json()
    assert rest["jobs"] == [job]
    assert http.get("/v1/jobs", params={"status": "failed"}).json()["jobs"] == []


@pytest.mark.parametrize(
    ("changes", "status", "detail"),
    [
        ({"pipeline": "dicover"}, 404, "Nearest known names: discover"),
        ({"config": {"sed": 1}}, 404, "seed"),
        ({"config": {"seed": "x"}}, 422, "it must be a whole number"),
        ({"config": {"data": "../x"}}, 422, "'..'"),
        ({"config": {"data": "/etc"}}, 422, "outside the data folder"),
        ({"config": {"dataset": "hf:beans"}}, 422, "fetched"),
        ({"config": {"encoder": "ViT-B-32:openai"}}, 422, "fetched"),
        ({"name": ""}, 422, "name"),
        ({"name": "a\u0000b"}, 422, "printable"),
        ({"priority": 1001}, 422, "priority"),
        ({"extra": 1}, 422, "extra"),
        ({"config": [1]}, 422, "config"),
        ({"pipeline": "bottleneck", "config": {"model": "../.."}}, 422, "no model"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(
    http: TestClient, changes: dict, status: int, detail: str
) -> None:
    answer = http.post("/v1/jobs", json={"name": "shop", "pipeline": "discover"} | changes)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]


def test_a_job_is_cancelled_and_retried(http: TestClient) -> None:
    job = submit(http)["id"]
    assert http.post(f"/v1/jobs/{job}/retry").status_code == 422
    assert http.delete(f"/v1/jobs/{job}").json()["status"] == "cancelled"
    again = http.post(f"/v1/jobs/{job}/retry")
    assert again.status_code == 202
    assert again.json()["status"] == "queued"


@pytest.mark.parametrize("path", ["", "/logs", "/events"])
def test_unknown_jobs(http: TestClient, path: str) -> None:
    job = submit(http)["id"]
    answer = http.get(f"/v1/jobs/{job[:-1]}x{path}")
    assert answer.status_code == 404
    assert job in answer.json()["detail"]


def events(text: str) -> list[tuple[str, object]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data[6:])) for name, data in blocks]


def test_events_end_with_the_job(http: TestClient, jobs: JobClient) -> None:
    job = submit(http)["id"]
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    jobs.journal.begin(job, Progress(0, moment, None, 5, 10, 2.0))
    jobs.journal.log(job, [(moment, "INFO", f"line {n}") for n in range(600)])
    http.delete(f"/v1/jobs/{job}")
    answer = http.get(f"/v1/jobs/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert [name for name, _ in found] == ["log"] * 500 + ["progress"] + ["log"] * 100 + ["end"]
    assert found[0][1] == {"time": "2026-01-02T00:00:00Z", "level": "INFO", "message": "line 0"}
    assert found[500][1]["status"] == "cancelled"
    page = http.get(f"/v1/jobs/{job}/logs", params={"offset": 598}).json()
    assert [line["message"] for line in page["logs"]] == ["line 598", "line 599"]
    assert page["total"] == 600


def test_a_silent_stream_beats_and_leaves_the_loop_free(
    http: TestClient, jobs: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(routes, "HEARTBEAT_SECONDS", 0.0)
    job = submit(http)["id"]

    async def watch() -> tuple[list[str], int]:
        ticks, found = 0, []

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        stream = routes._events(job, jobs, Lifecycle())
        async for text in stream:
            found.append(text)
            if len(found) == 3:
                jobs.cancel(job)
        ticking.cancel()
        return found, ticks

    found, ticks = asyncio.run(watch())
    assert found[0].startswith("event: progress")
    assert found[1].startswith(": ")
    assert found[-1] == "event: end\ndata: {}\n\n"
    assert '"status":"cancelled"' in found[-2]
    assert ticks > 100  # the loop went round while the database was asked


def test_a_stream_ends_with_the_service(http: TestClient, jobs: JobClient) -> None:
    job, lifecycle = submit(http)["id"], Lifecycle()

    async def watch() -> list[str]:
        found = []
        async for text in routes._events(job, jobs, lifecycle):
            found.append(text)
            lifecycle.end()
        return found

    assert len(asyncio.run(watch())) == 1


def test_a_body_without_photos_is_small(http: TestClient) -> None:
    body = {"name": "x", "pipeline": "discover", "config": {"data": "y" * 300_000}}
    assert http.post("/v1/jobs", json=body).status_code == 413


def test_a_database_that_goes_away_ends_the_stream(
    http: TestClient, jobs: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(http)["id"]

    def fail(*_: object) -> None:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(jobs, "logs_after", fail)
    found = events(http.get(f"/v1/jobs/{job}/events").text)
    assert found == [("error", {"detail": "The database is away."})]


def test_a_service_without_jobs_says_what_to_do(client: TestClient) -> None:
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/x/events"), ("DELETE", "/x")):
        body = {"name": "a", "pipeline": "discover"}
        answer = client.request(method, f"/v1/jobs{path}", json=body if method == "POST" else None)
        assert answer.status_code == 503
        assert "dncbm serve FOLDER" in answer.json()["detail"]


def test_changes_ask_for_the_scope_edit(http: TestClient) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            if path.startswith("/v1/jobs"):
                changes = method in ("post", "delete")
                assert operation.get("x-dncbm-scope") == ("edit" if changes else None)


def test_a_root_that_cannot_be_written_still_serves(tmp_path: Path) -> None:
    (tmp_path / ".dncbm").write_text("a file where the folder should be")
    settings = Settings(model_dir=tmp_path)
    assert open_database(settings) is None
    with pytest.raises(Unavailable):
        open_database(Settings(model_dir=tmp_path, state_dir=tmp_path / ".dncbm"))
    named = Settings(model_dir=tmp_path, state_dir=tmp_path / "state", data_dir=tmp_path)
    jobs = JobClient(places_of(named))
    assert jobs.places.data == tmp_path
    assert (tmp_path / "state" / "jobs.sqlite").is_file()
    jobs.close()
