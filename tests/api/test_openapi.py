"""The description of the API, as it is and as it is committed."""

import json
from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient

from api import openapi
from api.main import create_app
from api.registry import Registry


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    made = openapi.describe(create_app(Registry([])))
    return json.loads(json.dumps(made))


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_the_committed_file_is_current(document: dict[str, Any]) -> None:
    committed = json.loads(openapi.FILE.read_text())
    for one in (committed, document):
        one["info"].pop("version", None)
    assert committed == document, "The API changed: run `python -m api.openapi` and commit it."


def test_every_route_is_described(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert any(code >= "400" for code in operation["responses"]), name


def test_every_json_answer_has_an_example_that_fits(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for code, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                if kind not in ("application/json", "application/problem+json"):
                    continue
                assert "example" in content, (name, code)
                schema = content["schema"] | {"components": document["components"]}
                jsonschema.validate(content["example"], schema)


def test_errors_have_their_own_types(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for code, response in operation["responses"].items():
            if code >= "400":
                [kind] = response["content"]
                is_protocol = " /v2" in name
                assert (kind == "application/json") == is_protocol, (name, code)


def test_the_service_serves_the_same(client: TestClient, document: dict[str, Any]) -> None:
    assert client.get("/openapi.json").json()["paths"].keys() == document["paths"].keys()


def test_a_new_file_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, document: dict[str, Any]
) -> None:
    monkeypatch.setattr(openapi, "FILE", tmp_path / "openapi.json")
    assert json.loads(openapi.write().read_text())["paths"].keys() == document["paths"].keys()
