"""Stages of jobs on real directories."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dncbm.database import Database
from dncbm.errors import ArtifactError
from dncbm.jobs.checks import PIPELINES
from pipelines import job_stages
from pipelines.job_stages import RAY_ADDRESS, run_stage
from pipelines.workspace import Workspace


def job_of(tmp_path: Path, pipeline: str = "report", **config: Any) -> dict[str, Any]:
    models = tmp_path / "models"
    models.mkdir(exist_ok=True)
    return {
        "id": "j",
        "name": "new",
        "model": "new",
        "pipeline": pipeline,
        "stages": list(PIPELINES[pipeline]),
        "config": config,
        "work": str(models / ".jobs" / "j" / "new"),
        "models": str(models),
        "database": f"sqlite:///{tmp_path}/a.sqlite",
    }


def silent(stage: str, done: int, total: int) -> None: ...


def test_every_stage_of_every_pipeline_is_known() -> None:
    assert {name for stages in PIPELINES.values() for name in stages} == set(job_stages._STAGES)


def test_a_finished_model_appears_whole_and_once(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    work = Workspace(Path(job["work"])).create()
    (work.root / "part").write_text("x")
    (work.work / "checkpoint").write_text("x")
    assert run_stage("publish", job, silent) == {"model": "new"}
    target = tmp_path / "models" / "new"
    assert sorted(path.name for path in target.iterdir()) == ["part"]
    assert not work.root.parent.exists()
    assert run_stage("publish", job, silent) == {"model": "new"}  # killed before it was recorded


def test_what_was_made_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    Workspace(Path(job["work"])).create()
    (tmp_path / "models" / "new").mkdir()
    with pytest.raises(ArtifactError, match="was made meanwhile"):
        run_stage("publish", job, silent)
    (tmp_path / "models" / "new").rmdir()
    run_stage("publish", job, silent)
    (tmp_path / "models" / "new").rmdir()
    with pytest.raises(ArtifactError, match="was removed"):
        run_stage("publish", job, silent)


def test_the_registry_is_told_and_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, Path, Path]] = []

    class Store:
        def __init__(self, database: Database, root: Path) -> None:
            self.root = root

        def register(self, path: Path) -> None:
            told.append(("model", self.root, path))

        def register_artifacts(self, path: Path) -> None:
            raise ArtifactError("It is damaged.")

    module = SimpleNamespace(RegistryStore=Store)
    monkeypatch.setitem(sys.modules, "dncbm.registry.store", module)
    job = job_of(tmp_path)
    cbm = Path(job["work"]) / "cbm"
    cbm.mkdir(parents=True)
    (cbm / "manifest.json").write_text("{}")
    run_stage("publish", job, silent)
    models = tmp_path / "models"
    assert told == [("model", models, models / "new")]
    (models / "new" / "cbm" / "manifest.json").unlink()
    run_stage("publish", job, silent)
    assert "It is damaged" in caplog.text


def test_a_model_is_copied_with_the_changes_of_its_recipe(tmp_path: Path) -> None:
    job = job_of(tmp_path, "name", model="old", seed=4, naming={"voters": 3})
    old = tmp_path / "models" / "old"
    for part in ("embeddings", "sae", ".work"):
        (old / part).mkdir(parents=True)
        (old / part / "file").write_text(part)
    recipe = {"data": "/photos", "naming": {"voters": 9, "index": "exact"}}
    (old / "recipe.json").write_text(json.dumps(recipe))
    for _ in range(2):  # a killed copy begins anew
        assert run_stage("copy", job, silent) == {"model": "old"}
    new = Workspace(Path(job["work"]))
    made = new.read_recipe()
    assert (made.data, made.seed) == ("/photos", 4)
    assert made.naming == {"voters": 3, "index": "exact"}
    assert (new.root / "embeddings" / "file").samefile(old / "embeddings" / "file")
    assert not (new.root / "sae" / "file").samefile(old / "sae" / "file")
    assert not (new.work / "file").exists()
    assert json.loads((old / "recipe.json").read_text()) == recipe


def test_a_cluster_of_the_environment_is_used_unless_the_recipe_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(RAY_ADDRESS, raising=False)
    assert job_stages._on_ray({}).engine == "local"
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setenv(RAY_ADDRESS, "ray://head:10001")
    assert job_stages._on_ray({"seed": 1}).engine == "ray"
    assert job_stages._on_ray({"engine": "local"}).engine == "local"
    assert job_stages.os.environ["RAY_ADDRESS"] == "ray://head:10001"
