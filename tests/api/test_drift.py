import json
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from api.asgi import application
from dncbm.database import Database
from dncbm.drift.store import DriftRow
from dncbm.registry.place import open_store
from pipelines.cli import app as command_line
from tests.api.conftest import client_for
from tests.api.fakes import NUM_CONCEPTS, photo
from tests.api.test_predictions import problem
from tests.api.test_real_model import write_model
from tests.unit.registry.altered import write_altered

URL = "/v1/models/served/drift"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_model(tmp_path / "served")
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(path))
    monkeypatch.setenv("DNCBM_DEVICE", "cpu")
    monkeypatch.delenv("DNCBM_DATABASE_URL", raising=False)
    return path


def test_live_photos_are_counted_across_restarts(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNCBM_DRIFT", "1")
    for turn in range(2):
        with client_for(application()) as client:
            for seed in range(10):
                files = [("image", (f"{n}.png", photo(10 * seed + n))) for n in range(4)]
                predicted = client.post("/v1/models/served/predict", files=files)
                assert predicted.status_code == 200
            if turn == 0:  # counted when the service ends, too
                continue
            body = client.get(URL, params={"limit": 5}).json()
            assert (body["enabled"], body["images"]) == (True, 80)
            assert (body["total"], len(body["concepts"])) == (NUM_CONCEPTS, 5)
            assert body["next"] == f"{URL}?limit=5&offset=5"
            first = body["concepts"][0]
            assert first["shifted"]
            assert client.get(first["examples"]).status_code == 200
            assert body["share_shifted"] == body["concepts_shifted"] / body["concepts_tested"]
            shares = [c["density_live"] for c in client.get(URL).json()["concepts"]]
            assert 0 < sum(shares) <= 6  # top six codes per photo
            gauge = 'dncbm_drift_share_shifted{model="served"}'
            line = next(x for x in client.get("/metrics").text.splitlines() if gauge in x)
            assert float(line.split()[-1]) == body["share_shifted"]
    result = CliRunner().invoke(command_line, ["drift", str(root), "--json", "--limit", "3"])
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["images"], told["share_shifted"]) == (80, body["share_shifted"])
    assert [c["concept"] for c in told["concepts"]] == [c["concept"] for c in body["concepts"][:3]]
    assert "80 photos since" in CliRunner().invoke(command_line, ["drift", str(root)]).stdout
    with client_for(application()) as client:
        assert client.delete(URL).status_code == 204
        assert client.get(URL).json()["images"] == 0


def test_nothing_is_counted_unless_asked_for(root: Path) -> None:
    with client_for(application()) as client:
        client.post("/v1/models/served/predict", files={"image": photo(1)})
        body = client.get(URL).json()
        assert (body["enabled"], body["images"], body["concepts"]) == (False, 0, [])
        assert "DNCBM_DRIFT=1" in problem(client.delete(URL), 503)


def test_a_model_that_is_trained_again_in_its_place_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    write_model(models / "served")
    for name, value in {"MODEL_DIR": models, "DEVICE": "cpu", "DRIFT": 1}.items():
        monkeypatch.setenv(f"DNCBM_{name}", str(value))
    monkeypatch.delenv("DNCBM_DATABASE_URL", raising=False)
    with client_for(application()) as client:
        url = "/v1/models/served/predict"
        assert client.post(url, files={"image": photo(1)}).status_code == 200
        assert client.get(URL).json()["images"] == 1
        old = client.get("/v1/models/served").json()["details"]["fingerprint"]

        (models / "served").rename(tmp_path / "former")
        write_altered(tmp_path / "former", models / "served")  # other weights, the same name
        open_store(models).scan()
        assert client.get("/v1/models").status_code == 200  # a list sees what was made again
        new = client.get("/v1/models/served").json()["details"]["fingerprint"]
        assert new != old
        assert client.get(URL).json()["images"] == 0
        for seed in range(2):
            assert client.post(url, files={"image": photo(seed)}).status_code == 200
        assert client.get(URL).json()["images"] == 2

    # what was counted of the former model is still there, under its own fingerprint
    database = Database.of_file(models / ".dncbm" / "dncbm.sqlite")
    with database.session() as session:
        counted = {row.fingerprint[:64]: row.images for row in session.scalars(select(DriftRow))}
    database.close()
    assert counted == {old: 1, new: 2}
