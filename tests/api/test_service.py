import base64
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from api.registry import Registry
from tests.api.conftest import OPTIONS, build, client_for
from tests.api.fakes import FakePredictor, photo
from tests.api.test_predictions import problem

KEY = "clé-secrète"


@pytest.fixture
def keyed(model_dir: Path, predictor: FakePredictor) -> TestClient:
    return client_for(build(model_dir, predictor, replace(OPTIONS, api_key=KEY)))


PROTECTED = [
    "/v1/models",
    "/v1/models/clothing",
    "/v1/models/unknown",
    "/v1/dictionaries/clothing/concepts",
    "/v1/dictionaries/clothing/thumbnails/4.jpg",
    "/metrics",
    "/report",
    "/report/clothing",
]


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize("given", [None, "", "wrong", KEY + "x", "cl"])
def test_without_the_key_401(keyed: TestClient, path: str, given: str | None) -> None:
    headers = {} if given is None else {"X-API-Key": given.encode()}
    response = keyed.get(path, headers=headers)
    assert "X-API-Key" in problem(response, 401)
    assert "www-authenticate" in response.headers


def test_with_the_key(keyed: TestClient) -> None:
    headers = {"X-API-Key": KEY.encode()}
    basic = base64.b64encode(f"me:{KEY}".encode()).decode()
    assert keyed.get("/v1/models", headers={"Authorization": f"Basic {basic}"}).status_code == 200
    assert keyed.get("/report/", headers={"Authorization": f"Basic {basic}"}).status_code == 200
    assert keyed.get("/v1/models", headers=headers).status_code == 200


def test_browser_is_asked_for_a_password(keyed: TestClient) -> None:
    assert keyed.get("/report/").headers["www-authenticate"].startswith("Basic ")
    assert keyed.get("/v1/models").headers["www-authenticate"] == "ApiKey"


@pytest.mark.parametrize("header", ["Basic", "Basic %%%", "Basic /w==", "Bearer abc", "Basic eA=="])
def test_malformed_authorization(keyed: TestClient, header: str) -> None:
    problem(keyed.get("/v1/models", headers={"Authorization": header}), 401)


def test_wrong_key_never_reaches_the_model(keyed: TestClient, predictor: FakePredictor) -> None:
    response = keyed.post("/v1/models/clothing/predict", files={"image": photo(1)})
    problem(response, 401)
    assert predictor.calls == []


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz", "/readyz"])
def test_open_without_a_key(keyed: TestClient, path: str) -> None:
    assert keyed.get(path).status_code == 200


def test_health(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "models": ["clothing"]}


def test_health_answers_head(client: TestClient) -> None:
    for path in ("/healthz", "/readyz"):
        assert client.head(path).status_code == client.get(path).status_code == 200
    assert client_for(create_app(Registry([]))).head("/readyz").status_code == 503
    assert 'method="HEAD",route="/readyz",status="200"' in client.get("/metrics").text


def test_metrics_count_by_route_not_by_address(client: TestClient) -> None:
    client.post("/v1/models/clothing/predict", files=[("image", photo(1)), ("image", photo(2))])
    client.get("/v1/dictionaries/clothing/concepts/1")
    client.get("/v1/dictionaries/clothing/concepts/2")
    client.get("/v1/models/unknown")
    client.get("/nothing/here")
    client.request("BREW", "/healthz")
    text = client.get("/metrics").text
    assert 'dncbm_images_total{model="clothing"} 2.0' in text
    route = "/v1/dictionaries/{dictionary}/concepts/{concept}"
    assert f'dncbm_requests_total{{method="GET",route="{route}",status="200"}} 2.0' in text
    assert 'route="/v1/models/{model}",status="404"} 1.0' in text
    assert 'route="unmatched",status="404"} 1.0' in text
    assert 'method="other"' in text
    assert "dncbm_request_seconds_bucket" in text
    assert "dncbm_inference_admitted 0.0" in text


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/models/a/b/c", "/v3/health"])
def test_unknown_address(client: TestClient, path: str) -> None:
    assert "The routes are listed at /docs" in problem(client.get(path), 404)


def test_wrong_method(client: TestClient) -> None:
    response = client.delete("/v1/models")
    assert "DELETE is not possible here; use GET" in problem(response, 405)
    assert response.headers["allow"] == "GET"


def test_unexpected_failure_tells_nothing(client: TestClient) -> None:
    response = client.get("/v1/dictionaries/clothing/search?text=boom")
    detail = problem(response, 500)
    assert "secret" not in response.text
    assert "log" in detail
    assert client.app.state.service.limiter.admitted == 0  # type: ignore[attr-defined]


def test_openapi_describes_every_route(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert {path for _, path, _ in operations} >= {
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/models/{model}/classes",
        "/v1/models/{model}/classes/{k}",
        "/v1/models/{model}/explain",
        "/v1/models/{model}/predict",
        "/v1/models/{model}/lineage",
        "/v1/models/{model}/diff/{other}",
        "/v1/dictionaries/{dictionary}/diff/{other}",
        "/v1/artifacts",
        "/v1/artifacts/{fingerprint}",
        "/v1/aliases",
        "/v1/aliases/{alias}",
        "/v1/models/{model}/intervene",
        "/v1/models/{model}/edits",
        "/v1/models/{model}/edits/{edit}",
        "/v1/models/{model}/edits/{edit}/evaluate",
        "/v1/models/{model}/edits/{edit}/activate",
        "/v1/models/{model}/edits/{edit}/revert",
        "/v1/audit",
        "/v1/audit/verify",
        "/v1/dictionaries",
        "/v1/dictionaries/{dictionary}",
        "/v1/dictionaries/{dictionary}/concepts",
        "/v1/dictionaries/{dictionary}/concepts/{concept}",
        "/v1/dictionaries/{dictionary}/concepts/{concept}/examples",
        "/v1/dictionaries/{dictionary}/thumbnails/{row}.jpg",
        "/v1/dictionaries/{dictionary}/search",
    }
    for _, path, operation in operations:
        assert operation["tags"], path
        assert operation["summary"], path
        assert operation["description"], path
    predict = document["paths"]["/v1/models/{model}/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    example = predict["responses"]["200"]["content"]["application/json"]["example"]
    [prediction] = example["predictions"]
    parts = sum(part["contribution"] for part in prediction["contributions"])
    assert prediction["bias"] + parts + prediction["remainder"] == prediction["logit"]


def test_problem_types_are_fixed_words(client: TestClient) -> None:
    predict = "/v1/models/clothing/predict"
    types = {
        client.get("/nothing"): "not-found",
        client.get("/v1/models/x"): "unknown-name",
        client.delete("/v1/models"): "method-not-allowed",
        client.post(predict, content=b"x", headers={"Content-Type": "a/b"}): (
            "unsupported-media-type"
        ),
        client.post(predict, files={"image": b"x" * 300_000}): "content-too-large",
        client.post(predict, files={"image": b"x"}): "invalid-input",
        client.get("/v1/dictionaries/clothing/search?text=boom"): "internal-error",
    }
    for response, kind in types.items():
        assert response.json()["type"] == f"urn:dncbm:problem:{kind}"
        assert response.json()["instance"] == response.request.url.path
