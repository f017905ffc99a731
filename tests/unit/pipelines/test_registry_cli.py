"""The commands of the registry as a user runs them, without a service."""

import shutil
from pathlib import Path

import pytest

from dncbm.registry import hub
from dncbm.registry.place import open_store
from tests.api.test_real_model import write_model as write_real_model
from tests.end_to_end.conftest import run
from tests.unit.registry.altered import write_altered
from tests.unit.registry.directories import write_model


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DNCBM_STATE_DIR", "DNCBM_DATABASE_URL", "DNCBM_AUTHOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(tmp_path / "models"))
    for name in ("a", "b"):
        write_model(tmp_path / "models" / name, content=name)
    return tmp_path / "models"


def test_models_and_aliases(root: Path) -> None:
    (root / "b" / "sae" / "manifest.json").unlink()
    listed = run("models", "--json").json
    assert [(item["id"], item["state"]) for item in listed["models"]] == [("a", "ready")]
    assert "half written" in listed["refused"]["b"]
    shown = run("models")
    assert "ready" in shown.out
    assert "Not registered: b: " in shown.out

    set_to = run("alias", "production", "a", "--reason", "first", "--author", "Ann", "--json").json
    assert set_to["model"] == "a"
    assert [item["reason"] for item in set_to["history"]] == ["first"]
    assert run("models", "--json").json["models"][0]["aliases"] == ["production"]
    removed = run("alias", "production", "--remove", "--reason", "over", "--json").json
    assert [item["model"] for item in removed["history"]] == [None, "a"]
    shown = run("alias", "production")
    assert "(removed)" in shown.out
    assert "Ann" in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alias", "x", "none", "--reason", "r"], "Unknown model 'none'"),
        (["alias", "x", "a"], "reason of the change is blank"),
        (["alias", "x", "a", "--remove", "--reason", "r"], "not both"),
        (["alias", "x"], "Unknown alias 'x'"),
        (["lineage", "none"], "Unknown model 'none'"),
        (["lineage", "f" * 64], "Unknown artifact"),
        (["diff", "a", "none"], "Unknown model 'none'"),
        (["export", "none", "--out", "x.zip"], "Unknown model 'none'"),
        (["import", "nowhere.zip"], "does not exist"),
        (["import", "hf:nothing"], "hf:OWNER/NAME"),
        (["models", "--root", "nowhere"], "is not a directory"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(root: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.code == 2, done.err
    assert message in done.message
    assert "Traceback" not in done.err


def test_the_lineage_of_a_model_and_of_an_artifact(root: Path) -> None:
    tree = run("lineage", "a", "--json").json
    assert tree["kind"] == "cbm"
    assert [item["role"] for item in tree["inputs"]] == [
        "dictionary",
        "embeddings",
        "encoder",
        "sae",
    ]
    assert run("lineage", tree["fingerprint"], "--json").json == tree
    shown = run("lineage", "a").out.splitlines()
    assert shown[0].startswith("cbm ")
    assert shown[1].startswith("  dictionary ")
    assert "(as above)" in "".join(shown)


def test_out_and_in(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("alias", "production", "a", "--reason", "r")
    out = run("export", "production", "--out", tmp_path / "x.zip", "--json").json
    assert Path(out["out"]).is_file()
    made = run("import", tmp_path / "x.zip", "--name", "C d", "--json").json
    assert made["model"] == "c-d"
    assert open_store(root).model("c-d").cbm == made["fingerprint"]
    assert "exists already" in run("import", tmp_path / "x.zip", "--name", "C d").message
    folder = run("export", root / "a", "--out", tmp_path / "y", "--serving", "--json")
    assert folder.code == 0
    assert not (tmp_path / "y" / "embeddings").exists()
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    offline = run("export", "a", "--out", "hf:ann/a")
    assert offline.code == 1
    assert "cannot be reached" in offline.message
    assert "cannot be reached" in run("import", "hf:ann/a").message


def test_another_state_folder_and_database(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNCBM_STATE_DIR", str(tmp_path / "state"))
    run("models")
    assert (tmp_path / "state" / "dncbm.sqlite").is_file()
    monkeypatch.setenv("DNCBM_DATABASE_URL", f"sqlite:///{tmp_path}/c.sqlite")
    run("models")
    assert (tmp_path / "c.sqlite").is_file()
    assert not (root / ".dncbm").exists()


def test_what_changed_between_two_models(root: Path) -> None:
    shutil.rmtree(root)
    write_altered(write_real_model(root / "first"), root / "second")
    found = run("diff", "first", root / "second", "--json").json
    assert [(item["name_a"], item["name_b"]) for item in found["renamed"]] == [("lace", "another")]
    assert [item["concept"] for item in found["gained"]] == [11]
    assert [item["concept"] for item in found["lost"]] == [11]
    assert len(found["kept"]) == 10
    [change] = found["weights"]
    assert (change["class"], change["concept_b"]) == ("Shoes", 3)
    assert change["difference"] == pytest.approx(2)
    same = run("diff", "first", "first", "--json").json
    assert len(same["kept"]) == 12
    assert same["weights"] == []
    shown = run("diff", "first", "second").out
    assert "concepts: 10 kept, 1 renamed, 1 gained, 1 lost" in shown
    assert "lace is now another (1.00)" in shown
    assert "Weights that changed most" in shown
    assert "nec=99" in run("diff", "first", "second", "--nec", "99").message
