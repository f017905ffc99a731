import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.registry import Registry, find_models, open_registry, serve_model, unique_slugs
from dncbm.errors import ArtifactError, InvalidInput, UnknownName
from dncbm.registry.place import open_store
from dncbm.registry.store import RegistryStore
from tests.api.fakes import FakePredictor, make_model_directory
from tests.unit.registry.directories import write_model


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


class Loader:
    """Loads fakes, counts, and fails where it is told to."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.damaged: set[str] = set()

    def __call__(self, path: Path) -> FakePredictor:
        self.loaded.append(path.name)
        if path.name in self.damaged:
            raise ArtifactError(f"{path.name} is damaged")
        return FakePredictor()


@pytest.fixture
def store(tmp_path: Path) -> RegistryStore:
    for name in ("birds", "shoes"):
        write_model(tmp_path / "models" / name, content=name)
    return open_store(tmp_path / "models")


def test_with_a_store_all_are_loaded_or_none(store: RegistryStore) -> None:
    load = Loader()
    registry = open_registry(store.root, load, store=store)
    assert load.loaded == ["birds", "shoes"]
    assert [model.id for model in registry.models] == registry.ids == ["birds", "shoes"]
    assert load.loaded == ["birds", "shoes"]

    load = Loader()
    registry = open_registry(store.root, load, store=store, lazy=True)
    assert registry.ids == ["birds", "shoes"]
    assert registry.get("shoes") is None
    assert registry.model("shoes").id == "shoes"
    assert registry.model("shoes") is registry.get("shoes")
    assert load.loaded == ["shoes"]
    assert [model.id for model in registry.models] == ["birds", "shoes"]
    assert load.loaded == ["shoes", "birds"]


def test_a_model_that_is_made_again_is_loaded_again(store: RegistryStore) -> None:
    load = Loader()
    registry = open_registry(store.root, load, store=store)
    before = registry.model("birds")
    registry.refresh()
    assert registry.model("birds") is before
    write_model(store.root / "birds", content="other")
    registry.refresh()
    assert registry.model("birds") is before
    store.register(store.root / "birds")
    registry.refresh()
    assert registry.model("birds") is not before
    assert load.loaded == ["birds", "shoes", "birds"]


def test_what_is_still_used_is_told_once_a_model_has_gone(store: RegistryStore) -> None:
    told: list[list[object]] = []
    registry = open_registry(store.root, Loader(), store=store)
    registry.when_gone(lambda models: told.append([model.predictor for model in models]))
    registry.refresh()
    assert told == []
    first, shoes = (registry.model(name).predictor for name in ("birds", "shoes"))
    write_model(store.root / "birds", content="other")
    store.register(store.root / "birds")
    registry.refresh()
    second = registry.model("birds").predictor
    assert second is not first
    assert told == [[second, shoes]]
    shutil.rmtree(store.root / "birds")
    store.scan()
    with registry._loading:
        registry.look()  # a model is being loaded: its encoder is nobody's yet
    assert len(told) == 1
    registry.look()
    registry.look()
    assert told[1:] == [[shoes]]


def test_what_is_added_stays_until_its_model_is_made_again(store: RegistryStore) -> None:
    registry = open_registry(store.root, Loader(), store=store)
    edited = serve_model("birds", store.root / "birds", FakePredictor())
    assert registry.add(edited)
    registry.refresh()
    assert registry.model("birds") is edited
    late = serve_model("birds", store.root / "birds", FakePredictor())
    assert not registry.add(late, in_place_of=late)  # which is not what is served
    assert registry.model("birds") is edited
    write_model(store.root / "birds", content="other")
    store.register(store.root / "birds")
    registry.refresh()
    assert registry.model("birds") is not edited


def test_one_damaged_model_does_not_stop_the_others(store: RegistryStore) -> None:
    load = Loader()
    load.damaged = {"birds"}
    registry = open_registry(store.root, load, store=store)
    assert [model.id for model in registry.models] == ["shoes"]
    assert load.loaded == ["birds", "shoes"]  # and is not tried again for every list
    with pytest.raises(ArtifactError, match="birds is damaged"):
        registry.model("birds")
    load.damaged = set()
    assert registry.model("birds").id == "birds"
    shutil.rmtree(store.root / "shoes" / "sae")
    assert [model.id for model in open_registry(store.root, load, store=store).models] == ["birds"]
    shutil.rmtree(store.root / "birds" / "sae")
    with pytest.raises(ArtifactError, match="sae missing"):
        open_registry(store.root, load, store=store)
    with pytest.raises(InvalidInput, match="not a model directory and holds none"):
        open_registry(
            store.root / "birds" / "cbm", load, store=open_store(store.root / "birds" / "cbm")
        )


def test_many_threads_load_a_model_once(store: RegistryStore) -> None:
    load = Loader()
    registry = open_registry(store.root, load, store=store, lazy=True)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: registry.model("birds"), range(32)))
    assert load.loaded == ["birds"]
    assert {id(model) for model in found} == {id(found[0])}


def test_drafts_are_no_models(tmp_path: Path) -> None:
    make_model_directory(tmp_path / ".birds.draft-1234")
    with pytest.raises(InvalidInput, match="holds none"):
        find_models(tmp_path)
