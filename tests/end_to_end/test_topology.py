"""The deployment of `deploy/docker-compose.yml` as plain processes: Postgres, S3 store, api.

To extend it: add what a new part needs to `Deployment`, and ask it in a test of its own.
"""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dncbm.keys import add_key
from tests.end_to_end.conftest import command, environment
from tests.end_to_end.servers import (
    SECONDS,
    answers,
    free_port,
    object_store,
    postgres,
    postgres_programs,
    until,
)
from tests.end_to_end.test_serve import post_photo

pytest.importorskip("psycopg")

TRANSFER = """
import sys, fsspec
source, target = sys.argv[1:]
fs = fsspec.filesystem("s3")
if target.startswith("s3://"):
    fs.mkdirs(target.split("/")[2], exist_ok=True)
    fs.put(source + "/", target, recursive=True)
else:
    fs.get(source + "/", target, recursive=True)
"""


@dataclass(frozen=True)
class Deployment:
    address: str
    key: str
    database: str
    state: Path
    log: Path
    api: "subprocess.Popen[bytes]"

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self.address + path, headers={"X-API-Key": self.key})
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def deployment(finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    postgres_programs()
    model, _ = finished
    root = tmp_path_factory.mktemp("deployment")
    folder = Path("/tmp") / f"dncbm-postgres-{root.name}-{free_port()}"  # readable for its user
    with postgres(folder) as database, object_store() as store:
        variables = environment() | store
        models = root / "models"
        transfer(variables, str(model), "s3://dncbm/models/world")
        transfer(variables, "s3://dncbm/models/world", str(models / "world"))
        _, key = add_key(root / "keys.toml", "tester", ["predict"])
        port = free_port()
        variables |= {
            "DNCBM_DATABASE_URL": database,
            "DNCBM_STATE_DIR": str(root / "state"),
            "DNCBM_KEYS_FILE": str(root / "keys.toml"),
            "DNCBM_LOG_FORMAT": "json",
            "DNCBM_HOST": "127.0.0.1",
            "DNCBM_PORT": str(port),
        }
        log = root / "api.log"
        with log.open("wb") as file:
            api = subprocess.Popen(
                command("serve", models), env=variables, stdout=subprocess.DEVNULL, stderr=file
            )
        address = f"http://127.0.0.1:{port}"
        try:
            until(lambda: ended(api, log) or answers(f"{address}/readyz") == 200, "the api")
            yield Deployment(address, key, database, root / "state", log, api)
        finally:
            api.kill()
            api.wait(SECONDS)


def transfer(variables: dict[str, str], source: str, target: str) -> None:
    """What an operator's copy does; fsspec finds the store by the variables of the deployment."""
    subprocess.run([sys.executable, "-c", TRANSFER, source, target], env=variables, check=True)


def ended(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    return False


def test_every_part_is_ready(deployment: Deployment) -> None:
    answer = deployment.get("/readyz")
    assert answer["status"] == "ready"
    assert answer["models"] == ["world"]
    assert answer["checks"]["database"] == answer["checks"]["state"] == "ok"


def test_a_key_is_asked_for(deployment: Deployment) -> None:
    assert answers(f"{deployment.address}/v1/models") == 401
    assert [model["id"] for model in deployment.get("/v1/models")["models"]] == ["world"]


def test_the_schema_is_in_postgres_and_not_in_a_file(deployment: Deployment) -> None:
    import psycopg

    with psycopg.connect(deployment.database) as connection:
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    assert len(rows) == 1
    assert not list(deployment.state.glob("*.sqlite"))


def test_a_model_from_the_object_store_predicts(deployment: Deployment, photos: Path) -> None:
    assert deployment.get("/v1/models/world")["id"] == "world"
    url = f"{deployment.address}/v1/models/world/predict"
    opener = urllib.request.build_opener()
    opener.addheaders = [("X-API-Key", deployment.key)]
    urllib.request.install_opener(opener)
    try:
        (prediction,) = post_photo(url, next(photos.glob("test/*/*")))["predictions"]
    finally:
        urllib.request.install_opener(urllib.request.build_opener())
    assert prediction["contributions"]
    request = urllib.request.Request(
        f"{deployment.address}/metrics", headers={"X-API-Key": deployment.key}
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        text = answer.read().decode()
    for stage in ("decode", "encode", "codes"):
        assert f'dncbm_stage_seconds_count{{stage="{stage}"}} 1.0' in text


def test_the_log_is_json_with_names_and_without_keys(deployment: Deployment) -> None:
    deployment.get("/v1/models/world")
    until(lambda: "/v1/models/{model}" in deployment.log.read_text(), "the log line")
    text = deployment.log.read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    (last,) = [entry for entry in entries if entry.get("path") == "/v1/models/{model}"][-1:]
    assert (last["key"], last["model"], last["status"]) == ("tester", "world", 200)
    assert deployment.key not in text


def test_it_ends_gracefully(deployment: Deployment) -> None:
    deployment.api.send_signal(signal.SIGTERM)
    assert deployment.api.wait(SECONDS) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
