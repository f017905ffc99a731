"""Artifacts, lineage, aliases and diffs over HTTP, on real, tiny models."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from api.asgi import application
from api.registry import open_registry, serve_model
from api.routes.registry import held_out
from dncbm.artifacts import create_artifact, load_manifest
from dncbm.encoders.artifact import ITEMS_SCHEMA
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.keys import add_key
from dncbm.predictor import Predictor
from dncbm.registry.place import open_store
from tests.api.conftest import build, client_for
from tests.api.fakes import FakePredictor, make_model_directory, photo
from tests.api.test_real_model import write_model
from tests.unit.registry.altered import write_altered
from tests.unit.registry.directories import write_part


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one encoder, see `write_altered`."""
    root = tmp_path_factory.mktemp("originals")
    write_altered(write_model(root / "first"), root / "second")
    return root


@pytest.fixture
def root(tmp_path: Path, originals: Path) -> Path:
    for name in ("first", "second"):
        shutil.copytree(originals / name, tmp_path / "models" / name)
    return tmp_path / "models"


@pytest.fixture
def client(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(root))
    monkeypatch.setenv("DNCBM_DEVICE", "cpu")
    with client_for(application()) as client:
        yield client


def ok(client: TestClient, url: str, **options: Any) -> Any:
    response = client.request(options.pop("method", "GET"), url, **options)
    assert response.status_code == 200, response.text
    return response.json()


def problem(client: TestClient, status: int, url: str, **options: Any) -> str:
    response = client.request(options.pop("method", "GET"), url, **options)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["detail"])


def set_alias(client: TestClient, alias: str, model: str) -> Any:
    body = {"model": model, "author": "Ann", "reason": "why not"}
    return ok(client, f"/v1/aliases/{alias}", method="PUT", json=body)


def test_artifacts_in_pages_and_by_kind(client: TestClient) -> None:
    page = ok(client, "/v1/artifacts?limit=2")
    assert len(page["artifacts"]) == 2
    assert page["next"] == "/v1/artifacts?limit=2&offset=2"
    cbms = ok(client, "/v1/artifacts?kind=cbm")
    assert {item["kind"] for item in cbms["artifacts"]} == {"cbm"}
    assert cbms["total"] == len({item["fingerprint"] for item in cbms["artifacts"]})
    assert "cbm" in problem(client, 422, "/v1/artifacts?kind=nonsense")
    one = next(item for item in cbms["artifacts"] if item["paths"] == ["first/cbm"])
    detail = ok(client, f"/v1/artifacts/{one['fingerprint']}")
    assert detail["metrics"] == {"accuracy": 0.5}
    assert {(item["role"], item["fingerprint"]) for item in one["inputs"]} == {
        (item["role"], item["fingerprint"]) for item in detail["inputs"]
    }
    assert "Unknown artifact" in problem(client, 404, "/v1/artifacts/nonsense")
    assert "Unknown artifact" in problem(client, 404, "/v1/artifacts/a%00b")


def test_lineage_of_a_model(client: TestClient) -> None:
    found = ok(client, "/v1/models/first/lineage")
    assert found["model"] == "first"
    tree = found["lineage"]
    assert tree["kind"] == "cbm"
    below = {item["role"]: item for item in tree["inputs"]}
    assert below["encoder"]["kind"] is None
    assert below["dictionary"]["inputs"][0]["kind"] == "sae"
    assert ok(client, f"/v1/artifacts/{tree['fingerprint']}")["inputs"] == tree["inputs"]
    assert "Unknown model" in problem(client, 404, "/v1/models/none/lineage")


def test_an_alias_stands_wherever_an_id_does(client: TestClient) -> None:
    set_alias(client, "production", "first")
    set_alias(client, "canary", "production")
    for url in (
        "/v1/models/{}", "/v1/models/{}/classes", "/v1/dictionaries/{}", "/v1/models/{}/lineage",
        "/v1/dictionaries/{}/concepts", "/v1/models/{}/diff/second",
    ):  # fmt: skip
        for alias in ("production", "canary"):
            assert ok(client, url.format(alias)) == ok(client, url.format("first"))
    files = {"image": ("a.png", photo(1), "image/png")}
    answer = ok(client, "/v1/models/production/predict", method="POST", files=files)
    assert answer["model"] == "first"
    set_alias(client, "production", "second")
    answer = ok(client, "/v1/models/production/predict", method="POST", files=files)
    assert answer["model"] == "second"
    near = problem(client, 404, "/v1/models/produktion")
    assert "Nearest known names: production" in near


def test_the_history_of_an_alias(client: TestClient) -> None:
    assert set_alias(client, "production", "first")["model"] == "first"
    set_alias(client, "production", "second")
    listed = ok(client, "/v1/aliases")
    assert [(item["alias"], item["model"]) for item in listed["aliases"]] == [
        ("production", "second")
    ]
    gone = ok(client, "/v1/aliases/production?author=Bob&reason=over", method="DELETE")
    assert (gone["model"], gone["author"]) == (None, "Bob")
    history = ok(client, "/v1/aliases/production?limit=2")
    assert history["model"] is None
    assert [item["model"] for item in history["history"]] == [None, "second"]
    assert history["total"] == 3
    assert ok(client, "/v1/aliases")["aliases"] == []
    problem(client, 404, "/v1/models/production")


@pytest.mark.parametrize(
    ("alias", "body", "status", "words"),
    [
        ("first", {"model": "second"}, 422, "is the id of a model"),
        ("A_b", {"model": "second"}, 422, "is not possible"),
        ("x", {"model": "none"}, 404, "Unknown model 'none'"),
        ("x", {"model": "first", "author": "   "}, 422, "author is missing"),
        ("x", {"model": "first", "reason": ""}, 422, "reason"),
        ("x", {"model": "first", "more": 1}, 422, "more"),
        ("x", {"model": "a\0"}, 404, "Unknown model"),
    ],
)
def test_aliases_that_are_refused(
    client: TestClient, alias: str, body: dict[str, Any], status: int, words: str
) -> None:
    body = {"author": "Ann", "reason": "r"} | body
    assert words in problem(client, status, f"/v1/aliases/{alias}", method="PUT", json=body)
    assert ok(client, "/v1/aliases")["aliases"] == []


def test_the_name_of_the_key_is_the_author(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    _, key = add_key(keys, "bob", ["edit"])
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(root))
    monkeypatch.setenv("DNCBM_DEVICE", "cpu")
    monkeypatch.setenv("DNCBM_KEYS_FILE", str(keys))
    body = {"model": "first", "author": "ada", "reason": "trial"}
    with client_for(application()) as client:
        headers = {"X-API-Key": key}
        answer = client.put("/v1/aliases/production", json=body, headers=headers)
    assert answer.json()["author"] == "bob"


@pytest.mark.parametrize("error", [RuntimeError("no memory for it"), KeyError("encoder")])
def test_a_model_that_cannot_be_loaded_leaves_the_others(root: Path, error: Exception) -> None:
    def load(path: Path) -> Predictor:
        if path.name == "second":
            raise error
        return Predictor.load(path, device="cpu")

    registry = open_registry(root, load, store=open_store(root))
    assert [model.id for model in registry.models] == ["first"]
    with pytest.raises(ArtifactError, match="second cannot be loaded"):
        registry.model("second")


def test_a_lazy_service_loads_a_model_when_it_is_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNCBM_MODEL_DIR", str(root))
    monkeypatch.setenv("DNCBM_DEVICE", "cpu")
    monkeypatch.setenv("DNCBM_LAZY", "1")
    with client_for(application()) as client:
        registry = client.app.state.service.registry
        assert registry.loaded == []
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert registry.loaded == []
        assert client.get("/v1/models/first").status_code == 200
        assert [model.id for model in registry.loaded] == ["first"]


def test_what_is_not_there(client: TestClient) -> None:
    problem(client, 404, "/v1/aliases/none")
    problem(client, 404, "/v1/aliases/none?author=a&reason=b", method="DELETE")
    problem(client, 422, "/v1/aliases/none", method="DELETE")
    problem(client, 404, "/v1/models/first/diff/none")
    problem(client, 404, "/v1/dictionaries/none/diff/first")
    problem(client, 422, "/v1/models/first/diff/second?nec=99")
    problem(client, 422, "/v1/models/first/diff/second?min_cosine=0")
    problem(client, 422, "/v1/dictionaries/first/diff/second?min_cosine=nan")


def test_two_dictionaries(client: TestClient) -> None:
    found = ok(client, "/v1/dictionaries/first/diff/second")
    assert (found["a"], found["b"], found["method"]) == ("first", "second", "optimal")
    assert found["counts"] == {"gained": 1, "lost": 1, "renamed": 1, "kept": 10}
    assert found["total"] == 13
    gained, lost, renamed, *kept = found["concepts"]
    assert (gained["change"], gained["concept_a"], gained["concept_b"]) == ("gained", None, 11)
    assert (lost["change"], lost["concept_a"], lost["concept_b"]) == ("lost", 11, None)
    assert (renamed["name_a"], renamed["name_b"]) == ("lace", "another")
    assert min(item["cosine"] for item in [renamed, *kept]) == pytest.approx(1)
    page = ok(client, "/v1/dictionaries/first/diff/second?change=kept&limit=4&offset=8")
    assert len(page["concepts"]) == 2
    assert page["total"] == 10
    assert page["next"] is None


def test_two_models(client: TestClient, root: Path) -> None:
    found = ok(client, "/v1/models/first/diff/second")
    [change] = found["weights"]
    assert (change["class"], change["name_a"], change["name_b"]) == ("Shoes", "lace", "another")
    assert change["difference"] == pytest.approx(2)
    assert found["concepts"] == {"gained": 1, "lost": 1, "renamed": 1, "kept": 10}
    assert [item["weight_change"] for item in found["classes"]] == [0, pytest.approx(2), 0]
    assert (found["images"], found["decisions_changed"]) == (0, None)
    same = ok(client, "/v1/models/first/diff/first")
    assert same["weights"] == []
    assert "no embeddings" in problem(client, 422, "/v1/models/first/diff/second?images=5")
    write_part(root / "first", "embeddings", {"source": "d" * 64})
    assert "no embeddings" in problem(client, 422, "/v1/models/first/diff/second?images=5")


def test_images_are_taken_from_the_first_model(tmp_path: Path) -> None:
    splits = ["train", "test", "test", None, "test"]
    table = pa.table(
        {
            "id": list("abcde"), "path": list("abcde"), "label": list("xyxyx"), "split": splits,
            "width": [1] * 5, "height": [1] * 5, "error": [None] * 5, "row": range(5),
        },
        schema=ITEMS_SCHEMA,
    )  # fmt: skip
    with create_artifact(tmp_path / "embeddings", "embeddings", config={}, inputs={}) as draft:
        (draft.path / "shards").mkdir()
        np.save(draft.path / "shards" / "000000.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
        pq.write_table(table, draft.path / "items.parquet")
    predictor = FakePredictor()
    made_from = {"embeddings": load_manifest(tmp_path / "embeddings").fingerprint}
    predictor.cbm.manifest = SimpleNamespace(inputs=made_from)
    model = serve_model("m", tmp_path, predictor)
    assert held_out(model, 9).tolist() == [[2, 3], [4, 5], [8, 9]]
    assert held_out(model, 2).tolist() == [[2, 3], [8, 9]]
    made_from["embeddings"] = "0" * 64
    with pytest.raises(InvalidInput, match="no embeddings"):
        held_out(model, 2)


def test_a_model_that_is_registered_meanwhile_is_served(client: TestClient, root: Path) -> None:
    problem(client, 404, "/v1/models/third")
    shutil.copytree(root / "first", root / "third")
    problem(client, 404, "/v1/models/third")  # not before it is registered
    open_store(root).register(root / "third")
    assert ok(client, "/v1/models/third")["id"] == "third"
    shutil.copytree(root / "first", root / "fourth")
    open_store(root).register(root / "fourth")
    assert [item["id"] for item in ok(client, "/v1/models")["models"]] == [
        "first", "fourth", "second", "third",
    ]  # fmt: skip
    shutil.rmtree(root / "second")
    open_store(root).scan()
    assert len(ok(client, "/v1/models")["models"]) == 3
    assert "its directory is gone" in problem(client, 404, "/v1/models/second")


def test_without_a_store_there_is_no_registry(tmp_path: Path) -> None:
    app = build(make_model_directory(tmp_path / "clothing"), FakePredictor())
    with client_for(app) as client:
        assert "DNCBM_STATE_DIR" in problem(client, 503, "/v1/artifacts")
        assert client.get("/v1/models/clothing").status_code == 200
        assert client.get("/v1/models/none").status_code == 404
