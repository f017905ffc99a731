"""Edits and interventions on the command line, on a model directory without an encoder."""

import json
import os
from pathlib import Path

import pytest

from dncbm.curation.store import CurationStore
from dncbm.database import Database
from dncbm.naming.dictionary import load_dictionary
from pipelines.cli import app
from pipelines.console import run_guarded
from pipelines.state import state_folder
from tests.unit.curation.conftest import write_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DNCBM_STATE_DIR", "DNCBM_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return write_model(tmp_path / "insects")


class Ran:
    def __init__(self, capsys: pytest.CaptureFixture[str], *words: object) -> None:
        capsys.readouterr()
        self.code = run_guarded(lambda: app([str(word) for word in words], standalone_mode=False))
        captured = capsys.readouterr()
        self.out, self.err = captured.out, " ".join(captured.err.split())

    @property
    def json(self):
        return json.loads(self.out.splitlines()[-1])


def test_from_proposal_to_audit(model, capsys) -> None:
    made = Ran(
        capsys, "edit", model, "--remove", 3, "--rename", "1=trainer", "--merge", "0,2=limb",
        "--set-weight", "ant:5=0.5", "--block", 4, "--reason", "why", "--author", "ada", "--json",
    ).json  # fmt: skip
    assert [one["op"] for one in made["operations"]] == [
        "remove", "rename", "merge", "block", "set_weight"
    ]  # fmt: skip
    assert (made["status"], made["author"], made["evaluation"]["images"]) == (
        "evaluated",
        "ada",
        90,
    )
    ran = Ran(capsys, "edits", model, "--activate", 1, "--json")
    assert ran.json["edits"][0]["status"] == "active"
    refit = Ran(capsys, "edit", model, "--refit")
    assert refit.code == 0
    assert "accuracy, nec3" in refit.out
    assert Ran(capsys, "edits", model, "--revert", 1, "--json").json["edits"][1]["id"] == 1
    assert "reverted" in Ran(capsys, "edits", model).out
    assert Ran(capsys, "audit", model, "--json").json["total"] == 6
    assert "Intact: 6 entries" in Ran(capsys, "audit", model, "--verify").out
    assert "edit.revert" in Ran(capsys, "audit", model, "--limit", 1).out


def test_tampering_fails_the_check(model, capsys) -> None:
    Ran(capsys, "edit", model, "--rename", "1=trainer")
    database = Database.of_file(model / ".dncbm" / "dncbm.sqlite")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_no_update")
        connection.exec_driver_sql("UPDATE audit_log SET author = 'eve' WHERE n = 2")
    database.close()
    ran = Ran(capsys, "audit", model, "--verify")
    assert ran.code == 1
    assert "entry 2 is wrong or missing" in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No change was given"),
        (["--rename", "17"], "CONCEPT=NAME"),
        (["--rename", "x=y"], "not the index of a concept"),
        (["--merge", "1=y"], "two or more"),
        (["--set-weight", "ant:1"], "CLASS:CONCEPT=WEIGHT"),
        (["--set-weight", "ann:1=2"], "Nearest known names: ant"),
        (["--remove", "99"], "does not exist"),
    ],
)
def test_words_that_are_no_edit(model, capsys, words, message) -> None:
    ran = Ran(capsys, "edit", model, *words)
    assert ran.code == 2
    assert message in ran.err


def test_a_name_stands_for_all_that_have_it(model, capsys) -> None:
    named = load_dictionary(model / "dictionary").names
    name = named[2].name
    ran = Ran(capsys, "edit", model, "--remove", name, "--reason", "trial", "--json")
    wanted = [index for index, item in enumerate(named) if item.name == name]
    assert [one["concept"] for one in ran.json["operations"]] == wanted
    assert "Nearest known names" in Ran(capsys, "edit", model, "--remove", name + "x").err


def test_activating_and_reverting_exclude_each_other(model, capsys) -> None:
    assert Ran(capsys, "edits", model, "--activate", 1, "--revert", 1).code == 2
    assert "Unknown edit" in Ran(capsys, "edits", model, "--activate", 1).err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No change was given"),
        (["--set", "wing"], "CONCEPT=NUMBER"),
        (["--scale", "wing=much"], "CONCEPT=NUMBER"),
        (["--set", "wing=-1"], "finite number from 0"),
    ],
)
def test_words_that_are_no_intervention(model, capsys, words, message) -> None:
    ran = Ran(capsys, "intervene", model, "photo.png", *words)
    assert ran.code == 2
    assert message in ran.err


def test_the_state_lies_where_the_service_looks(model, capsys, monkeypatch, tmp_path) -> None:
    assert state_folder(model) == model / ".dncbm"
    (model.parent / ".dncbm").mkdir()
    assert state_folder(model) == model.parent / ".dncbm"
    monkeypatch.setenv("DNCBM_STATE_DIR", str(tmp_path / "state"))
    assert state_folder(model) == tmp_path / "state"
    monkeypatch.setenv("DNCBM_DATABASE_URL", f"sqlite:///{tmp_path}/other.sqlite")
    assert Ran(capsys, "edit", model, "--rename", "1=trainer").code == 0
    assert not (tmp_path / "state" / "dncbm.sqlite").exists()
    database = Database(os.environ["DNCBM_DATABASE_URL"])
    assert CurationStore(database).audit.verify().entries == 2
    database.close()
