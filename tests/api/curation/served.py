"""What the tests ask the service for: edits, predictions, interventions."""

import json
from typing import Any

from fastapi.testclient import TestClient

from tests.api.fakes import photo
from tests.api.test_predictions import post

MODEL = "/v1/models/insects"
EDITS = f"{MODEL}/edits"
ADA = {"author": "ada"}


def propose(client: TestClient, *operations: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"operations": list(operations), "author": "ada", "reason": "because"} | more
    response = client.post(EDITS, json=body)
    assert response.status_code == 201, response.text
    return response.json()


def step(client: TestClient, edit: dict[str, Any], verb: str) -> dict[str, Any]:
    response = client.post(f"{EDITS}/{edit['id']}/{verb}", json=ADA)
    assert response.status_code == 200, response.text
    return response.json()


def active(client: TestClient, *operations: dict[str, Any]) -> dict[str, Any]:
    edit = propose(client, *operations)
    step(client, edit, "evaluate")
    return step(client, edit, "activate")


def predicted(client: TestClient) -> dict[str, Any]:
    response = post(client, photo(1), url=f"{MODEL}/predict?top_contributions=4")
    assert response.status_code == 200
    return response.json()["predictions"][0]


def intervened(client: TestClient, changes: Any, query: str = "") -> Any:
    files = [("image", ("a.png", photo(1), "image/png"))]
    data = {"changes": changes if isinstance(changes, str) else json.dumps(changes)}
    return client.post(f"{MODEL}/intervene{query}", files=files, data=data)
