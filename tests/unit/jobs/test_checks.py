"""What can be submitted."""

from pathlib import Path
from typing import Any

import pytest

from dncbm.errors import InvalidInput, UnknownName
from dncbm.jobs.checks import PIPELINES, checked
from dncbm.jobs.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "data" / "photos").mkdir(parents=True)
    old = tmp_path / "models" / "old"
    old.mkdir(parents=True)
    (old / "recipe.json").write_text("{}")
    return Places.of(tmp_path / "models", data=tmp_path / "data")


def test_a_possible_job_becomes_an_order(places: Places) -> None:
    config = {"data": "photos", "sae": {"num_concepts": 64}, "blocked_words": ["banner"]}
    order = checked("My Model!", "discover", config, places)
    assert order.model == "my-model"
    assert order.stages == ("embed", "discover", "name", "bottleneck", "report", "publish")
    assert order.config == config | {"data": f"{places.data}/photos"}


@pytest.mark.parametrize(
    ("pipeline", "config", "error", "message"),
    [
        ("dicsover", {}, UnknownName, "Nearest known names: discover"),
        ("discover", {"sed": 1}, UnknownName, "Unknown recipe field 'sed'. Nearest.*seed"),
        ("discover", {"seed": "x"}, InvalidInput, "seed is 'x'; it must be a whole number"),
        ("discover", {"seed": -1}, InvalidInput, "at least 0"),
        ("discover", {"data": 5}, InvalidInput, "data is 5; it must be a text"),
        ("discover", {"sae_preset": "topq"}, UnknownName, "Nearest known names: topk"),
        ("discover", {"sae": {"num_concept": 1}}, UnknownName, "num_concepts"),
        ("discover", {"naming": {"centring": "word"}}, UnknownName, "words"),
        ("discover", {"naming_preset": "papr"}, UnknownName, "paper"),
        ("discover", {"probe": {"solvr": "paper"}}, UnknownName, "solver"),
        ("discover", {"encoder": "ViT-B-32:opnai"}, InvalidInput, "fetched"),
        ("discover", {"model": "old"}, UnknownName, "recipe field 'model'"),
        ("sae", {}, InvalidInput, "Name the model"),
        ("sae", {"model": "../old"}, InvalidInput, "Known: old"),
        ("sae", {"model": ".dncbm"}, InvalidInput, "Known: old"),
        ("name", {"model": "old", "encoder": "mini"}, InvalidInput, "encoder cannot be changed"),
        ("bcosify", {}, InvalidInput, "No model is given"),
        ("bcosify", {"model": "mini"}, InvalidInput, "No photos given"),
        ("bcosify", {"model": "mini", "training": {"loss": "x"}}, UnknownName, "pairwise"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_once(
    places: Places, pipeline: str, config: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        checked("new", pipeline, config, places)


def test_a_caller_on_the_machine_may_read_everything(places: Places, tmp_path: Path) -> None:
    order = checked("new", "discover", {"data": "../x"}, places, base=tmp_path / "data")
    assert order.config == {"data": f"{tmp_path}/x"}


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "old", "OLD"])
def test_names_that_no_new_model_can_have(places: Places, name: str) -> None:
    with pytest.raises(InvalidInput):
        checked(name, "discover", {}, places)


def test_a_root_that_is_a_model_has_no_place_for_others(tmp_path: Path) -> None:
    (tmp_path / "cbm").mkdir()
    (tmp_path / "cbm" / "manifest.json").write_text("{}")
    with pytest.raises(InvalidInput, match="is a model, not a folder of models"):
        checked("new", "discover", {}, Places.of(tmp_path))


def test_every_pipeline_ends_with_a_model_that_appears_whole() -> None:
    assert all(stages[-1] == "publish" for stages in PIPELINES.values())
