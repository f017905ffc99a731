"""The wall clock jumps by hours under a running service: nobody is locked out, nothing breaks."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from api.rates import RateLimiter, TooManyRequests
from api.registry import Registry, serve_model
from api.settings import Rate, ServiceOptions
from dncbm.database import Database
from dncbm.database import audit as audit_log
from dncbm.database.audit import AuditLog, append_audit
from tests.api.conftest import client_for
from tests.api.fakes import FakePredictor, photo
from tests.api.test_predictions import post

HOURS = 6 * 3600.0
Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """Set the wall clock of this process to so many seconds from the right time."""
    right = time.time

    def jumped(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: right() + seconds)

    return jumped


@pytest.fixture
def client(model_dir: Path) -> Iterator[TestClient]:
    options = ServiceOptions(rate_limit=Rate(1000, 3600))
    app = create_app(Registry([serve_model("clothing", model_dir, FakePredictor())]), options)
    with client_for(app) as client:
        yield client


@pytest.mark.parametrize("seconds", [HOURS, -HOURS])
def test_rates_go_by_durations(jump: Jump, seconds: float) -> None:
    limiter = RateLimiter(Rate(2, 3600))
    limiter.take("ada")
    jump(seconds)
    limiter.take("ada")  # the second is hers, whatever the clock says
    with pytest.raises(TooManyRequests) as refused:
        limiter.take("ada")  # and an hour's jump brings no third one
    assert 0 < int(refused.value.headers["Retry-After"]) <= 1801


@pytest.mark.parametrize("seconds", [HOURS, -HOURS])
def test_answers_and_their_tags_stay(client: TestClient, jump: Jump, seconds: float) -> None:
    url = "/v1/models/clothing/classes"
    before = client.get(url)
    prediction = post(client, photo(1)).json()
    jump(seconds)
    after = client.get(url)
    assert after.json() == before.json()
    assert after.headers["etag"] == before.headers["etag"]
    assert client.get(url, headers={"If-None-Match": before.headers["etag"]}).status_code == 304
    assert post(client, photo(1)).json() == prediction
    assert client.get("/readyz").status_code == 200


def test_the_audit_log_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database.of_file(tmp_path / "a.sqlite")
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    hours = [0, 6, -6, 7, -100]
    for number, offset in enumerate(hours):
        moment = start + timedelta(hours=offset)
        monkeypatch.setattr(audit_log, "now", lambda moment=moment: moment)
        with database.session() as session:
            append_audit(session, author="ada", action="a", subject=str(number), detail={})
    log = AuditLog(database)
    assert log.verify().intact
    total, entries = log.page(limit=10, offset=0)
    assert total == len(hours)
    assert [entry.subject for entry in entries] == ["4", "3", "2", "1", "0"]  # as they came
    assert [datetime.fromisoformat(entry.time) - start for entry in entries] == [
        timedelta(hours=offset) for offset in reversed(hours)
    ]
    database.close()
