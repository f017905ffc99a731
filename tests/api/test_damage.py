"""Damaged artifacts: named, left out, and no harm to the models beside them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.asgi import application
from dncbm.encoders.artifact import ITEMS
from dncbm.errors import ArtifactError
from tests.api.conftest import client_for
from tests.api.fakes import photo
from tests.api.real import write_browsable
from tests.api.test_predictions import post, problem
from tests.api.test_real_model import write_model


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # one bit of the last number
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_version(path: Path) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format_version": 99}))


def removed(path: Path) -> None:
    path.unlink()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def models(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "models"
    for name in ("birds", "shoes"):
        shutil.copytree(whole, root / name)
    for name, value in {"MODEL_DIR": root, "DEVICE": "cpu", "STATE_DIR": tmp_path / "s"}.items():
        monkeypatch.setenv(f"DNCBM_{name}", str(value))
    monkeypatch.delenv("DNCBM_DATABASE_URL", raising=False)
    return root


def predicts(client: TestClient, model: str) -> None:
    assert post(client, photo(1), url=f"/v1/models/{model}/predict").status_code == 200


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("sae/*.safetensors", flipped, "was changed after it was written"),
        ("cbm/probe.safetensors", flipped, "was changed after it was written"),
        ("dictionary/directions.safetensors", flipped, "was changed after it was written"),
        ("dictionary/concepts.parquet", truncated, "was changed after it was written"),
        ("cbm/probe.safetensors", removed, "is incomplete"),
        ("cbm/manifest.json", of_another_version, "has format version 99, this dncbm reads"),
        ("sae/manifest.json", truncated, "cannot be read: Unterminated string"),
    ],
)
def test_a_damaged_model_is_named_and_the_others_serve(
    models: Path, file: str, damage: Callable[[Path], None], message: str
) -> None:
    (path,) = (models / "shoes").glob(file)
    damage(path)
    with client_for(application()) as client:
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["models"] == ["birds"]
        assert message in ready.json()["refused"]["shoes"]
        assert str(models) not in ready.text
        predicts(client, "birds")
        detail = problem(client.get("/v1/models/shoes"), 500)
        assert "shoes" in detail
        assert message in detail
        assert [item["id"] for item in client.get("/v1/models").json()["models"]] == ["birds"]


def test_a_model_that_is_made_again_is_no_longer_refused(models: Path) -> None:
    flipped(models / "shoes" / "cbm" / "probe.safetensors")
    with client_for(application()) as client:
        assert "shoes" in client.get("/readyz").json()["refused"]
        flipped(models / "shoes" / "cbm" / "probe.safetensors")
        predicts(client, "shoes")
        assert "refused" not in client.get("/readyz").json()


def test_damage_under_a_running_service_ends_no_request(models: Path) -> None:
    """What is in memory serves on; what is read at the moment is refused by name."""
    with client_for(application()) as client:
        flipped(models / "shoes" / "cbm" / "probe.safetensors")
        predicts(client, "shoes")
        predicts(client, "birds")


def test_none_whole_is_told_at_the_start(models: Path) -> None:
    for name in ("birds", "shoes"):
        flipped(models / name / "cbm" / "probe.safetensors")
    with pytest.raises(ArtifactError, match=r"birds.*was changed after it was written"):
        application()


def test_truncated_tables_of_embeddings_are_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_browsable(tmp_path / "seen")
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(root))
    monkeypatch.setenv("DNCBM_DEVICE", "cpu")
    truncated(root / "embeddings" / ITEMS)
    with client_for(application()) as client:
        predicts(client, "seen")
        assert "seen/embeddings is damaged" in problem(
            client.get("/v1/models/seen/evaluation"), 500
        )
        assert client.get("/v1/models/seen/classes").status_code == 200
