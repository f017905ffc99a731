from pathlib import Path

import pytest

from dncbm.artifacts import create_artifact
from dncbm.errors import ArtifactError, Unavailable
from pipelines.recipes import Recipe
from pipelines.workspace import Stopwatch, Workspace, is_current


def make(path: Path, seed: int = 0) -> None:
    config = {"seed": seed, "derived": 1.5}
    with create_artifact(path, "sae", config=config, inputs={"encoder": "e"}) as draft:
        (draft.path / "data").write_text("x")


def test_an_artifact_is_current_for_its_own_recipe_and_inputs_only(tmp_path: Path) -> None:
    make(tmp_path / "a")
    assert is_current(tmp_path / "a", "sae", {"seed": 0}, {"encoder": "e"})
    assert not is_current(tmp_path / "a", "sae", {"seed": 1}, {"encoder": "e"})
    assert not is_current(tmp_path / "a", "sae", {"seed": 0}, {"encoder": "other"})
    assert not is_current(tmp_path / "absent", "sae", {"seed": 0}, {"encoder": "e"})


def test_a_damaged_artifact_is_not_current(tmp_path: Path, caplog) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "data").unlink()
    assert not is_current(tmp_path / "a", "sae", {"seed": 0}, {"encoder": "e"})
    assert "Making it again" in caplog.text


def test_the_recipe_is_remembered(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "m").create()
    recipe = Recipe(data="photos", blocked_words=("banner",), sae={"k": 4})
    workspace.write_recipe(recipe)
    assert workspace.read_recipe() == recipe
    with pytest.raises(ArtifactError, match="Begin with `dncbm embed"):
        Workspace(tmp_path / "other").read_recipe()


def test_checkpoints_go_when_the_work_is_done(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "m").create()
    workspace.checkpoint("discover").write_text("x")
    workspace.clean()
    assert list((tmp_path / "m").iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unavailable, match="Cannot write to"):
        Workspace(tmp_path / "file" / "m").create()


def test_the_stopwatch_keeps_stages_in_order() -> None:
    watch = Stopwatch()
    with watch("b"):
        pass
    with watch("a"):
        pass
    assert list(watch.seconds) == ["b", "a"]
    assert all(value >= 0 for value in watch.seconds.values())
