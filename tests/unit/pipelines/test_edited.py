"""The command line decides as the service does: with the active edit of a model."""

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.asgi import application
from dncbm.encoders.clip import Encoder
from dncbm.errors import UnknownName
from dncbm.naming.dictionary import load_dictionary
from dncbm.registry.place import open_store
from pipelines.targets import meant, say_meant
from tests.api.conftest import client_for
from tests.api.fakes import photo
from tests.unit.curation.conftest import make_names, write_model
from tests.unit.encoders.tiny import tiny_encoder
from tests.unit.pipelines.test_edits_cli import Ran

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    return write_model(tmp_path_factory.mktemp("made") / "insects", encoder=encoder)


@pytest.fixture
def model(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STATE_DIR", "DATABASE_URL", "MODEL_DIR"):
        monkeypatch.delenv(f"DNCBM_{name}", raising=False)
    return Path(shutil.copytree(made, tmp_path / "models" / "insects"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(photo(1))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *words: Ran(capsys, *words)


def active(run: Run, model: Path, *words: object) -> int:
    """The number of a new edit, activated."""
    edit = run("edit", model, *words, "--json").json["id"]
    assert run("edits", model, "--activate", edit).code == 0
    return int(edit)


def served(
    model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, path: str, **form: Any
) -> Any:
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(model.parent))
    monkeypatch.setenv("DNCBM_DEVICE", "cpu")
    with client_for(application()) as client:
        files = [("image", ("photo.png", picture.read_bytes(), "image/png"))]
        answer = client.post(f"/v1/models/insects/{path}", files=files, data=form)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_nothing_is_made_where_nobody_edits(run: Run, model: Path, picture: Path) -> None:
    before = sorted(model.parent.rglob("*"))
    assert run("predict", model, picture, "--json").json["edit"] is None
    assert sorted(model.parent.rglob("*")) == before


def test_predict_says_what_the_service_says(
    run: Run, model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model.parent / ".dncbm").mkdir()  # of a service on the folder of models
    [bare] = run("predict", model, picture, "--json").json["predictions"]
    top = bare["contributions"][0]["concept"]
    edit = active(run, model, "--remove", top, "--rename", "1=antenna")
    told = run("predict", model, picture, "--top", 24, "--json").json
    assert told["edit"] == edit
    [mine] = told["predictions"]
    assert top not in [part["concept"] for part in mine["contributions"]]
    url = "predict?top_contributions=24"
    [theirs] = served(model, picture, monkeypatch, url)["predictions"]
    for field in ("class", "logit", "probability", "bias", "remainder"):
        assert mine[field] == theirs[field], field
    names = [(part["concept"], part["name"]) for part in mine["contributions"]]
    assert names == [(part["concept"], part["name"]) for part in theirs["contributions"]]

    out = run("predict", model, picture).out
    assert f"With edit {edit}, which is active; --no-edits" in out
    without = run("predict", model, picture, "--no-edits", "--json").json
    assert (without["edit"], without["predictions"]) == (None, [bare])
    run("edits", model, "--revert", edit)
    assert run("predict", model, picture, "--json").json == without


def test_intervene_and_explain_do_so_too(
    run: Run, model: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model.parent / ".dncbm").mkdir()
    [bare] = run("predict", model, picture, "--json").json["predictions"]
    first, second = (part["concept"] for part in bare["contributions"][:2])
    edit = active(run, model, "--remove", first)
    told = run("intervene", model, picture, "--remove", second, "--json").json
    assert told["edit"] == edit
    changes = json.dumps([{"concept": second, "remove": True}])
    theirs = served(model, picture, monkeypatch, "intervene", changes=changes)
    [mine], [other] = told["interventions"], theirs["interventions"]
    for when in ("before", "after"):
        assert mine[when]["logit"] == other[when]["logit"]
    assert f"With edit {edit}" in run("intervene", model, picture, "--remove", second).out

    words = ("explain", model, picture, "--class", "ant", "--out", tmp_path / "e", "--json")
    explained, bare = run(*words), run(*words, "--no-edits")
    [[one], [other]] = (
        ran.json["predictions"][0]["pixels"]["attributions"] for ran in (explained, bare)
    )
    assert one["value"] != other["value"]
    assert explained.json["edit"] == edit
    assert bare.json["edit"] is None


def test_evaluate_measures_the_edit(run: Run, model: Path, picture: Path, tmp_path: Path) -> None:
    commands = importlib.import_module("pipelines.commands")
    removed = [word for concept in range(12) for word in ("--remove", concept)]
    edit = active(run, model, *removed)
    for split in (None, tmp_path / "photos"):
        if split is not None:
            for label in ("ant", "bee"):
                (split / label).mkdir(parents=True)
                for seed in range(3):
                    (split / label / f"{seed}.png").write_bytes(photo(seed))
        given = [] if split is None else ["--data", split]
        told = run("evaluate", model, *given, "--json").json
        bare = run("evaluate", model, *given, "--no-edits", "--json").json
        assert (told["edit"], bare["edit"]) == (edit, None)
        assert told["images"] == bare["images"]
    assert commands.evaluate(model, None, None, lambda *_: None)["edit"] == edit
    out = run("evaluate", model).out
    assert f"With edit {edit}" in out
    changed = run("evaluate", model, "--json").json["accuracy"]
    assert changed != run("evaluate", model, "--no-edits", "--json").json["accuracy"]


def test_a_renamed_directory_keeps_its_edits(run: Run, model: Path, picture: Path) -> None:
    """The service goes by the id that the directory had at first."""
    store = open_store(model.parent)
    store.scan()
    edit = active(run, model, "--rename", "1=antenna")
    other = model.rename(model.parent / "beetles")
    store.scan()
    store.database.close()
    assert run("predict", other, picture, "--json").json["edit"] == edit
    assert [one["id"] for one in run("edits", other, "--json").json["edits"]] == [edit]


def test_a_database_that_is_away_is_told(
    run: Run, model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNCBM_DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/d")
    ran = run("predict", model, picture)
    assert ran.code == 1
    assert "--no-edits takes the model as it was made" in ran.err
    assert "secret" not in ran.err
    assert run("predict", model, picture, "--no-edits").code == 0


def test_names_say_which_concepts_they_mean(run: Run, model: Path, picture: Path) -> None:
    names = [item.name for item in load_dictionary(model / "dictionary").names]
    assert names[:6] == ["leg", "wing", "fur", "wing", "eye (big eye)", "eye"]
    words = ("--remove", "wing", "--scale", "fur=2", "--set", "eye (big eye)=1")
    told = run("intervene", model, picture, *words, "--json").json
    assert told["meant"] == [
        {"asked": "eye (big eye)", "by": "name", "concepts": [{"concept": 4, "name": names[4]}]},
        {"asked": "fur", "by": "name", "concepts": [{"concept": 2, "name": "fur"}]},
        {"asked": "wing", "by": "name",
         "concepts": [{"concept": 1, "name": "wing"}, {"concept": 3, "name": "wing"}]},
    ]  # fmt: skip
    out = run("intervene", model, picture, *words).out
    assert "'wing' means wing #1, wing #3" in out
    assert "'fur' means" not in out  # one concept of that very name
    assert run("intervene", model, picture, "--remove", 3, "--json").json["meant"] == []


def test_a_base_name_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    named = make_names()
    details = {3: "wing (hind wing)", 1: "wing (fore wing)"}
    names = [replace(item, name=details.get(c, item.name)) for c, item in enumerate(named)]
    [found] = meant(names, ["wing", 3])
    assert (found["asked"], found["by"]) == ("wing", "base name")
    assert [one["concept"] for one in found["concepts"]] == [1, 3]
    say_meant([found])
    said = capsys.readouterr().out
    assert said.strip() == "'wing' means wing (fore wing) #1, wing (hind wing) #3"
    with pytest.raises(UnknownName, match="wing"):
        meant(names, ["wingg"])
