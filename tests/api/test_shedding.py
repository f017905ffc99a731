"""A full service answers before it does anything else, in the words and headers as ever."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from api.shedding import _UPLOAD, _pattern
from tests.api.conftest import OPTIONS, build, client_for
from tests.api.fakes import FakePredictor, photo

URL = "/v1/models/clothing/predict"


@pytest.fixture
def full(model_dir: Path, predictor: FakePredictor) -> FastAPI:
    """A service whose only place is taken."""
    app = build(model_dir, predictor, replace(OPTIONS, concurrency=1, waiting=0, api_key="right"))
    app.state.service.limiter._admitted = 1
    return app


def answered(app: FastAPI, path: str) -> list[Any]:
    """What the application sends for a form whose body must not be read."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "root_path": "",
        "scheme": "http", "query_string": b"", "server": ("x", 80), "client": ("x", 1),
        "headers": [(b"host", b"x"), (b"content-type", b"multipart/form-data; boundary=b")],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent


def test_photos_are_turned_away_unread(full: FastAPI) -> None:
    start, body = answered(full, URL)
    headers = dict(start["headers"])
    assert start["status"] == 503
    assert int(headers[b"retry-after"]) >= 1
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"x-request-id"] in body["body"]
    assert b"already runs or queues 1 inference requests" in body["body"]


def test_the_open_inference_protocol_has_its_own_words(full: FastAPI) -> None:
    start, body = answered(full, "/v2/models/clothing/infer")
    assert start["status"] == 503
    assert body["body"].startswith(b'{"error":')


def test_what_is_not_a_photo_goes_on(full: FastAPI) -> None:
    with client_for(full) as client:
        for path in ("/healthz", "/metrics", "/v1/models"):
            answer = client.get(path, headers={"X-API-Key": "right"})
            assert answer.status_code == 200
        assert client.post("/nothing", files={"image": photo(1)}).status_code == 404


def test_all_places_for_reading_taken(full: FastAPI) -> None:
    full.state.service.limiter._admitted = 0
    full.state.service.uploads._reading = 1
    _, body = answered(full, URL)
    assert b"already reads 1 uploads" in body["body"]


def test_it_is_counted_under_the_pattern_of_its_route(full: FastAPI) -> None:
    answered(full, URL)
    full.state.service.limiter._admitted = 0
    with client_for(full) as client:
        text = client.get("/metrics", headers={"X-API-Key": "right"}).text
    line = 'dncbm_requests_total{method="POST",route="/v1/models/{model}/predict",status="503"} 1.0'
    assert line in text


def test_patterns_are_those_of_the_routes(full: FastAPI) -> None:
    document = full.openapi()["paths"]
    uploads = [
        path
        for path, operations in document.items()
        if "multipart/form-data" in str(operations.get("post", {}).get("requestBody"))
    ]
    assert len(uploads) >= 5
    for path in (*uploads, "/v2/models/{model}/infer"):
        found = _UPLOAD.fullmatch(path.replace("{", "").replace("}", ""))
        assert found is not None
        assert _pattern(found) == path
