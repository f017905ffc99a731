from pathlib import Path

import pytest

from api.registry import Registry, find_models, open_registry, serve_model, unique_slugs
from dncbm.errors import InvalidInput, UnknownName
from tests.api.fakes import FakePredictor, make_model_directory


def test_a_model_directory_is_one_model(tmp_path: Path) -> None:
    path = make_model_directory(tmp_path / "My Cloth_ing (v2)")
    loaded: list[Path] = []

    def load(path: Path) -> FakePredictor:
        loaded.append(path)
        return FakePredictor()

    registry = open_registry(path, load)
    assert [model.id for model in registry.models] == ["my-cloth-ing-v2"]
    assert loaded == [path]


def test_a_folder_of_several(tmp_path: Path) -> None:
    for name in ("birds", "Clothing", "clothing"):
        make_model_directory(tmp_path / name)
    (tmp_path / "other").mkdir()
    registry = open_registry(tmp_path, lambda path: FakePredictor())
    assert [model.id for model in registry.models] == ["birds", "clothing", "clothing-2"]
    assert registry.model("clothing").path.name == "Clothing"


@pytest.mark.parametrize("name", ["empty", "missing", "file"])
def test_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=f"{name} is not a model directory and holds none"):
        find_models(tmp_path / name)


def test_slugs() -> None:
    names = ["Été 2024", "../..", "a__b", "A b", "日本", "-x-"]
    assert unique_slugs(names) == ["ete-2024", "model", "a-b", "a-b-2", "model-2", "x"]


def test_unknown_model_lists_known_ones(tmp_path: Path) -> None:
    registry = Registry([serve_model("birds", tmp_path, FakePredictor())])
    with pytest.raises(UnknownName, match=r"Unknown model 'brids'. Nearest known names: birds"):
        registry.model("brids")


def test_probe_of_a_size_that_is_not_there(tmp_path: Path) -> None:
    model = serve_model("birds", tmp_path, FakePredictor())
    assert model.probe(5) is model.predictor.cbm.nec_probes[5]
    assert model.probe(None) is model.predictor.cbm.probe
    with pytest.raises(InvalidInput, match=r"nec=10 is not available in model 'birds'.*: 5;"):
        model.probe(10)
