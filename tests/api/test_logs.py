import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.logs import JsonFormatter, PlainFormatter, configure_logging
from tests.api.conftest import OPTIONS, build, client_for
from tests.api.fakes import FakePredictor, photo


class Written:
    """What went to stderr so far."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """What is logged, and the loggers as they were afterwards."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield Written(capsys)
    root.handlers[:] = handlers


def lines(text: Written) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.getvalue().splitlines()]


def test_a_request_is_one_json_line(client: TestClient, stderr: Written) -> None:
    configure_logging("json")
    image = photo(1)
    answer = client.post(
        "/v1/models/clothing/predict?nec=5&top_classes=2",
        files={"image": ("geheim.png", image)},
        headers={"X-Request-ID": "trail-1"},
    )
    assert answer.headers["x-request-id"] == "trail-1"
    (line,) = lines(stderr)
    assert line.pop("milliseconds") > 0
    assert line.pop("time").endswith("+00:00")
    assert line.pop("message").startswith("POST /v1/models/{model}/predict 200 ")
    assert line == {
        "level": "info",
        "logger": "api.access",
        "request_id": "trail-1",
        "method": "POST",
        "path": "/v1/models/{model}/predict",
        "status": 200,
        "model": "clothing",
    }
    assert "geheim" not in stderr.getvalue()
    assert "top_classes" not in stderr.getvalue()


def test_names_of_keys_are_told_and_keys_are_not(
    model_dir: Path, predictor: FakePredictor, stderr: Written
) -> None:
    configure_logging("json")
    client = client_for(build(model_dir, predictor, replace(OPTIONS, api_key="s3cret-key")))
    client.get("/v1/models", headers={"X-API-Key": "s3cret-key"})
    client.get("/v1/models", headers={"X-API-Key": "wr0ng-key"})
    named, refused = lines(stderr)
    assert (named["status"], named["key"]) == (200, "api-key")
    assert refused["status"] == 401
    assert "key" not in refused
    assert "s3cret" not in stderr.getvalue()
    assert "wr0ng" not in stderr.getvalue()


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\x7f", "{}", "é"])
def test_an_odd_request_id_is_replaced(client: TestClient, given: str) -> None:
    answer = client.get("/healthz", headers={"X-Request-ID": given.encode()})
    assert len(answer.headers["x-request-id"]) == 16
    assert client.get("/healthz").headers["x-request-id"] != answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nothing", 404), ("/v1/models/x", 404), ("/v1/dictionaries/clothing/search?text=boom", 500)],
)
def test_problems_and_their_log_lines_bear_the_id(
    client: TestClient, stderr: Written, path: str, status: int
) -> None:
    configure_logging("json")
    answer = client.get(path, headers={"X-Request-ID": "trail-2"})
    assert answer.status_code == status
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "trail-2"
    found = lines(stderr)
    assert {line["request_id"] for line in found} == {"trail-2"}
    if status == 500:
        assert "secret internals" in found[0]["traceback"]
        assert "nosniff" in answer.headers["x-content-type-options"]


def test_what_visitors_type_is_not_in_the_line(client: TestClient, stderr: Written) -> None:
    configure_logging("plain")
    client.get("/v1/models/forged%0Aline")
    client.get("/nothing/forged")
    assert "forged" not in stderr.getvalue()
    first, second = stderr.getvalue().splitlines()
    assert "GET /v1/models/{model} 404" in first
    assert "GET unmatched 404" in second
    assert first.endswith("]")


def test_one_handler_however_often(stderr: Written) -> None:
    configure_logging("json")
    configure_logging("plain")
    logging.getLogger("dncbm.x").warning("hello\nforged")
    (line,) = stderr.getvalue().splitlines()
    assert line.endswith("WARNING dncbm.x: hello forged")
    assert not logging.getLogger("uvicorn.access").hasHandlers()


def test_formatters_outside_of_requests() -> None:
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "said %s", ("ü\n",), None)
    assert json.loads(JsonFormatter().format(record))["message"] == "said ü\n"
    assert "\n" not in JsonFormatter().format(record)
    assert PlainFormatter().format(record).endswith("ERROR a: said ü ")
