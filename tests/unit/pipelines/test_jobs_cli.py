"""`dncbm jobs`, on a database without a worker."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dncbm.errors import DncbmError, InvalidInput
from dncbm.jobs.client import JobClient
from dncbm.jobs.places import Places
from pipelines.cli import app

RUN = CliRunner()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STATE_DIR", "DATABASE_URL", "DATA_DIR"):
        monkeypatch.delenv(f"DNCBM_{name}", raising=False)
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


def called(*arguments: str) -> Any:
    result = RUN.invoke(app, ["jobs", *arguments, "--json"], catch_exceptions=False)
    return json.loads(result.stdout.splitlines()[-1])


def recipe(folder: Path, text: str = 'data = "photos"\nout = "../Shop"\n') -> str:
    (folder / "run.toml").write_text(text)
    return str(folder / "run.toml")


def test_a_job_from_submission_to_retry(models: Path, tmp_path: Path) -> None:
    job = called("submit", recipe(tmp_path), "--priority", "4")
    assert (job["name"], job["status"], job["priority"]) == ("Shop", "queued", 4)
    assert job["config"] == {"data": str(tmp_path / "photos")}  # relative to the file
    listed = called("list")
    assert listed == {"jobs": [job], "total": 1}
    assert called("show", job["id"]) == job
    assert called("logs", job["id"]) == {"logs": []}
    assert called("cancel", job["id"])["status"] == "cancelled"
    assert called("list", "--status", "queued")["jobs"] == []
    with pytest.raises(DncbmError, match="has cancelled"):
        called("show", job["id"], "--follow")
    assert called("retry", job["id"])["status"] == "queued"


def test_people_see_tables(models: Path, tmp_path: Path) -> None:
    out = RUN.invoke(app, ["jobs", "submit", recipe(tmp_path), "--name", "x"]).stdout
    assert "queued. Follow it: dncbm jobs show" in out
    client = JobClient(Places.of(models))
    job = client.list()[0][0].id
    client.close()
    assert "discover" in RUN.invoke(app, ["jobs", "list"]).stdout
    shown = RUN.invoke(app, ["jobs", "show", job]).stdout
    assert "bottleneck" in shown
    assert "waiting" in shown
    assert "cancelled" in RUN.invoke(app, ["jobs", "cancel", job]).stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [('out = "x"\nsed = 1', "'sed'"), ("seed = -1", "at least 0"), ("seed =", "not valid")],
)
def test_a_bad_recipe_is_refused_at_once(
    models: Path, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        called("submit", recipe(tmp_path, text))


def test_no_model_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DNCBM_MODEL_DIR", raising=False)
    with pytest.raises(InvalidInput, match="DNCBM_MODEL_DIR"):
        called("list")
    with pytest.raises(InvalidInput, match="not a folder"):
        called("list", "--root", str(tmp_path / "nothing"))
