from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from api.registry import Registry, serve_model
from tests.api.conftest import client_for
from tests.api.fakes import CLASSES, FakePredictor
from tests.api.test_predictions import problem


def test_list_models(client: TestClient) -> None:
    body = client.get("/v1/models").json()
    assert body["total"] == 1
    assert body["next"] is None
    assert body["models"] == [
        {
            "id": "clothing",
            "dictionary": "clothing",
            "classes": list(CLASSES),
            "num_concepts": 12,
            "effective_concepts": [5],
        }
    ]


def test_list_models_in_pages(model_dir: Path) -> None:
    models = [serve_model(name, model_dir, FakePredictor()) for name in ("c", "a", "b")]
    client = client_for(create_app(Registry(models)))
    address, seen = "/v1/models?limit=2", []
    while address:
        body = client.get(address).json()
        seen += [model["id"] for model in body["models"]]
        address = body["next"]
    assert seen == ["a", "b", "c"]


def test_describe_model(client: TestClient) -> None:
    body = client.get("/v1/models/clothing").json()
    assert body["details"]["encoder"] == "mini"
    assert body["classes"] == list(CLASSES)


@pytest.mark.parametrize("path", ["", "/classes", "/classes/0"])
def test_unknown_model(client: TestClient, path: str) -> None:
    detail = problem(client.get(f"/v1/models/clothin{path}"), 404)
    assert "Unknown model 'clothin'. Nearest known names: clothing" in detail


def test_list_classes(client: TestClient) -> None:
    classes = client.get("/v1/models/clothing/classes").json()["classes"]
    assert [item["class"] for item in classes] == list(CLASSES)
    assert [item["bias"] for item in classes] == [0.25, -0.5, 0.125]
    assert [item["effective_concepts"] for item in classes] == [10, 10, 10]
    sparse = client.get("/v1/models/clothing/classes?nec=5&limit=2").json()
    assert [item["effective_concepts"] for item in sparse["classes"]] == [5, 5]
    assert sparse["next"] == "/v1/models/clothing/classes?nec=5&limit=2&offset=2"


@pytest.mark.parametrize("k", ["T-Shirt/Top & Co", "2"])
def test_explain_class(client: TestClient, predictor: FakePredictor, k: str) -> None:
    body = client.get(f"/v1/models/clothing/classes/{quote(k, safe='')}").json()
    assert (body["class"], body["index"], body["total"]) == ("T-Shirt/Top & Co", 2, 10)
    weights = [item["weight"] for item in body["weights"]]
    assert sorted(weights, key=abs, reverse=True) == weights
    for item in body["weights"]:
        assert item["weight"] == float(predictor.cbm.probe.weights[2, item["concept"]])
        assert item["name"] == predictor.dictionary.names[item["concept"]].name


def test_explain_class_of_the_sparse_probe(client: TestClient) -> None:
    body = client.get("/v1/models/clothing/classes/Shoes?nec=5&limit=3").json()
    assert body["total"] == 5
    assert len(body["weights"]) == 3


@pytest.mark.parametrize("k", ["Sheos", "3", "-1", "9" * 30, "..", "²"])
def test_unknown_class(client: TestClient, k: str) -> None:
    response = client.get(f"/v1/models/clothing/classes/{k}")
    if k != "..":
        assert "Or give an index, 0 to 2." in problem(response, 404)


def test_bad_nec(client: TestClient) -> None:
    assert "nec=7 is not available" in problem(
        client.get("/v1/models/clothing/classes/Shoes?nec=7"), 422
    )


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "offset=-1", "offset=x"])
def test_bad_page(client: TestClient, query: str) -> None:
    problem(client.get(f"/v1/models?{query}"), 422)
