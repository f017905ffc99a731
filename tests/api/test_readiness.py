import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from api.readiness import HEARTBEAT, Check, database_answers, folder_writable, worker_alive
from api.registry import Registry, serve_model
from dncbm.database import Database
from dncbm.errors import Unavailable
from dncbm.jobs.places import Places
from tests.api.conftest import OPTIONS, client_for
from tests.api.fakes import FakePredictor
from tests.api.test_predictions import problem


def service(model_dir: Path, **checks: Check) -> TestClient:
    registry = Registry([serve_model("clothing", model_dir, FakePredictor())])
    return client_for(create_app(registry, OPTIONS, checks=checks))


def test_ready_when_every_part_is(model_dir: Path, tmp_path: Path) -> None:
    database = Database.of_file(tmp_path / "db.sqlite")
    client = service(
        model_dir, database=database_answers(database), state=folder_writable(tmp_path)
    )
    answer = client.get("/readyz")
    assert answer.json() == {
        "status": "ready",
        "models": ["clothing"],
        "checks": {"database": "ok", "state": "ok"},
    }
    assert sorted(tmp_path.glob(".probe*")) == []
    database.close()


def test_reasons_are_told_but_not_what_is_inside(model_dir: Path, tmp_path: Path) -> None:
    def breaks() -> None:
        raise RuntimeError("secret internals")

    client = service(model_dir, state=folder_writable(tmp_path / "none"), other=breaks)
    answer = client.get("/readyz")
    detail = problem(answer, 503)
    assert "state: The state folder cannot be written (No such file or directory)" in detail
    assert str(tmp_path) not in answer.text
    assert "secret" not in answer.text
    assert answer.json()["checks"]["other"].startswith("The check failed")
    assert int(answer.headers["retry-after"]) > 0
    assert client.head("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_a_database_that_is_away(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "db.sqlite"
    file.parent.mkdir()
    database = Database.of_file(file)
    check = database_answers(database)
    check()
    database.close()
    for part in file.parent.iterdir():
        part.unlink()
    file.parent.rmdir()
    with pytest.raises(Unavailable, match="does not answer"):
        check()


def test_a_writer_does_not_hold_up_the_check(tmp_path: Path) -> None:
    database = Database.of_file(tmp_path / "db.sqlite")
    with database.session():  # SQLite lets one transaction in at a time
        database_answers(database)()
    database.close()


def test_a_check_that_hangs_is_given_up(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.readiness._SECONDS", 0.01)
    release = threading.Event()
    client = service(model_dir, database=lambda: (release.wait(20), None)[1])
    try:
        assert "database: No answer within 0.01 s" in problem(client.get("/readyz"), 503)
    finally:
        release.set()


def test_a_worker_must_show_itself(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not|No worker has shown itself yet"):
        worker_alive(tmp_path, 30)()
    mark = tmp_path / HEARTBEAT
    mark.touch()
    moment = mark.stat().st_mtime
    worker_alive(tmp_path, 30, lambda: moment + 29)()
    with pytest.raises(Unavailable, match="for 31 s; the limit is 30 s"):
        worker_alive(tmp_path, 30, lambda: moment + 31)()
    # the clock was set back: what a dead worker left must not count for hours
    with pytest.raises(Unavailable, match="for 7200 s"):
        worker_alive(tmp_path, 30, lambda: moment - 7200)()


def test_what_a_worker_shows_is_what_is_looked_for(tmp_path: Path) -> None:
    places = Places.of(tmp_path)
    check = worker_alive(places.state, 60.0)
    with pytest.raises(Unavailable, match="No worker has shown itself"):
        check()
    places.show_worker()
    check()
