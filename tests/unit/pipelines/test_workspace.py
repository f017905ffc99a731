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
    recipe = Recipe(data="/photos", blocked_words=("banner",), sae={"k": 4})
    workspace.write_recipe(recipe)
    assert workspace.read_recipe() == recipe
    with pytest.raises(ArtifactError, match="Begin with `dncbm embed"):
        Workspace(tmp_path / "other").read_recipe()


def test_what_lies_inside_the_model_directory_moves_with_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "m").create()
    workspace.write_recipe(Recipe(data=str(tmp_path / "m" / "concept-world")))
    (tmp_path / "m").rename(tmp_path / "moved")
    assert Workspace(tmp_path / "moved").read_recipe().data == str(
        tmp_path / "moved" / "concept-world"
    )


def test_a_work_directory_of_somebody_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="was not made by dncbm"):
        Workspace(tmp_path).create()
    Workspace(tmp_path).clean()
    assert (tmp_path / ".work" / "thesis.txt").read_text() == "mine"


def test_the_checkpoints_of_one_stage_are_discarded_whatever_their_recipe(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "m").create()
    for name in ("discover-a", "discover-b"):
        workspace.checkpoint(name).write_text("x")
    (workspace.work / "bottleneck").mkdir()
    (workspace.work / "bottleneck" / "piece").write_text("x")
    workspace.discard("discover")
    assert [p.name for p in workspace.work.iterdir() if p.name != ".dncbm"] == ["bottleneck"]
    workspace.discard("bottleneck")
    assert [p.name for p in workspace.work.iterdir()] == [".dncbm"]


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
