"""Postgres is restarted under load: predictions go on, nothing is lost, nothing is doubled."""

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from api.asgi import application
from dncbm.jobs.client import JobClient
from dncbm.jobs.places import Places
from dncbm.jobs.records import Order
from tests.api.fakes import photo
from tests.api.live import serving
from tests.api.test_real_model import write_model
from tests.end_to_end.conftest import environment
from tests.end_to_end.servers import (
    SECONDS,
    free_port,
    postgres,
    postgres_programs,
    restart_postgres,
    until,
)
from tests.end_to_end.test_serve import post_photo
from tests.unit.jobs import conftest as jobs

pytest.importorskip("psycopg")

WORKER = """
import sys
from pathlib import Path
from dncbm.jobs.places import Places
from pipelines.worker import work
places = Places.of(Path(sys.argv[1]), database=sys.argv[2])
work(places, concurrency=1, total=None, with_parent=False, entry="fake_stages:run")
"""


@dataclass(frozen=True)
class Server:
    folder: Path
    url: str


@pytest.fixture
def server() -> Iterator[Server]:
    postgres_programs()
    folder = Path("/tmp") / f"dncbm-postgres-{os.getpid()}-{free_port()}"  # readable for its user
    with postgres(folder) as url:
        yield Server(folder, url)


@dataclass
class Load:
    """Callers that predict and edit until they are told to stop, and what they were answered."""

    address: str
    picture: Path
    stop: threading.Event = field(default_factory=threading.Event)
    predicted: Counter[int] = field(default_factory=Counter)
    edited: dict[str, int] = field(default_factory=dict)
    """Status by the reason that was given, which no other edit has."""
    without_hint: list[str] = field(default_factory=list)

    def predict(self) -> None:
        while not self.stop.is_set():
            try:
                post_photo(f"{self.address}/v1/models/tiny/predict", self.picture)
                self.predicted[200] += 1
            except urllib.error.HTTPError as error:
                self.predicted[error.code] += 1

    def edit(self, caller: int) -> None:
        number = 0
        while not self.stop.is_set():
            reason = f"caller {caller}, edit {number}"
            operations = [{"op": "rename", "concept": 1, "name": f"name {number}"}]
            body = {"operations": operations, "author": "ada", "reason": reason}
            request = urllib.request.Request(
                f"{self.address}/v1/models/tiny/edits",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                    self.edited[reason] = answer.status
            except urllib.error.HTTPError as error:
                self.edited[reason] = error.code
                if not error.headers.get("Retry-After"):
                    self.without_hint.append(f"{error.code}: {error.read().decode()}")
            number += 1

    def succeeded(self) -> int:
        return list(self.edited.values()).count(201)


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return json.load(answer)


@pytest.fixture
def address(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    values = {
        "MODEL_DIR": write_model(tmp_path / "tiny"),
        "STATE_DIR": tmp_path / "state",
        "DEVICE": "cpu",
        "DATABASE_URL": server.url,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"DNCBM_{name}", str(value))
    app = application()
    with serving(app) as found:
        yield found
    app.state.service.jobs.close()
    app.state.service.store.database.close()


def test_predictions_go_on_and_edits_are_kept(server: Server, address: str, tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    picture.write_bytes(photo(1))
    load = Load(address, picture)
    threads = [threading.Thread(target=load.predict)]
    threads += [threading.Thread(target=load.edit, args=(caller,)) for caller in range(3)]
    for thread in threads:
        thread.start()
    try:
        for mode in ("fast", "immediate"):
            before = load.succeeded()
            until(lambda before=before: load.succeeded() > before + 5, "edits before the restart")
            restart_postgres(server.folder, mode)
            before = load.succeeded()
            until(lambda before=before: load.succeeded() > before + 5, "edits after the restart")
    finally:
        load.stop.set()
        for thread in threads:
            thread.join(SECONDS)
    assert set(load.predicted) == {200}
    assert set(load.edited.values()) <= {201, 503}, Counter(load.edited.values())
    assert load.without_hint == []

    check = fetched(f"{address}/v1/audit/verify")
    assert check["intact"], check
    stored: Counter[str] = Counter()
    page = f"{address}/v1/models/tiny/edits?limit=500"
    while page:
        answer = fetched(page)
        stored.update(edit["reason"] for edit in answer["edits"])
        page = answer["next"] and address + answer["next"]
    assert max(stored.values()) == 1
    assert check["entries"] == len(stored)  # one entry per edit
    accepted = {reason for reason, status in load.edited.items() if status == 201}
    assert accepted <= stored.keys() <= load.edited.keys()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_worker_connects_again_and_finishes_its_job(
    server: Server, tmp_path: Path, mode: str
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "hold-two").touch()
    client = JobClient(Places.of(models, database=server.url))
    order = Order("model", "discover", "model", jobs.STAGES)
    job = client.enqueue(order).id
    path = f"{jobs.REPOSITORY}:{jobs.HERE}"
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(models), server.url],
        env=environment() | {"PYTHONPATH": path},
    )
    effects = models / "effects"
    try:
        until(lambda: effects.exists() and "two begin" in effects.read_text(), "the second stage")
        restart_postgres(server.folder, mode)
        until(lambda: effects.read_text().count("two begin") == 2, "the second stage, again")
        assert worker.poll() is None
        (models / "hold-two").unlink()
        until(lambda: client.get(job).status == "succeeded", "the end of the job")
    finally:
        worker.terminate()
        code = worker.wait(SECONDS)
        client.close()
    assert code == 0
    lines = effects.read_text().splitlines()
    assert [lines.count(f"model {stage} end") for stage in jobs.STAGES] == [1, 1, 1]
    assert lines.count("model one begin") == 1
