"""The description of the API: FastAPI's, with true error types and an example of every answer.

    python -m api.openapi          # writes api/openapi.json

The file is committed so that a change of the API is seen in review; a test compares.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.examples import example_of
from api.schemas import Problem
from api.schemas.v2 import InferBody, InstancesBody, ProtocolError
from dncbm.artifacts import write_json

FILE = Path(__file__).with_name("openapi.json")
_REFERENCE = "#/components/schemas/"
_EXTRA = (Problem, ProtocolError, InferBody, InstancesBody)
"""Schemas that no route declares by its types."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, made once."""
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        _add_schemas(schemas)
        for path, operation in _operations(document):
            _complete(operation, schemas, is_protocol=path.startswith("/v2"))
        app.openapi_schema = document
    return app.openapi_schema


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _add_schemas(schemas: dict[str, Any]) -> None:
    wanted: list[Any] = [(model, "validation") for model in _EXTRA]
    _, found = models_json_schema(wanted, ref_template=_REFERENCE + "{model}")
    for name, schema in found["$defs"].items():
        schemas.setdefault(name, schema)


def _complete(operation: dict[str, Any], schemas: dict[str, Any], *, is_protocol: bool) -> None:
    responses = operation["responses"]
    if is_protocol and "422" in responses:
        responses["400"] = responses.pop("422")
    for code, response in responses.items():
        if code >= "400":
            response["content"] = _problem(int(code), response["description"], is_protocol)
        else:
            _add_example(response, schemas)
    operation["responses"] = dict(sorted(responses.items()))


def _problem(status: int, description: str, is_protocol: bool) -> dict[str, Any]:
    if is_protocol:
        schema = {"$ref": f"{_REFERENCE}{ProtocolError.__name__}"}
        return {"application/json": {"schema": schema, "example": {"error": description}}}
    example = {
        "type": "urn:dncbm:problem:error",
        "title": "Error",
        "status": status,
        "detail": description,
        "instance": "/v1/models/clothing",
    }
    schema = {"$ref": f"{_REFERENCE}{Problem.__name__}"}
    return {"application/problem+json": {"schema": schema, "example": example}}


def _add_example(response: dict[str, Any], schemas: dict[str, Any]) -> None:
    content = response.get("content", {}).get("application/json", {})
    if "schema" in content and "example" not in content:
        content["example"] = example_of(content["schema"], schemas)


def write() -> Path:
    """Write the document of the service with all its routes; returns the file."""
    from api.main import create_app
    from api.registry import Registry

    write_json(FILE, describe(create_app(Registry([]))))
    return FILE


if __name__ == "__main__":
    write()
