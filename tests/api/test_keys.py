import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.testclient import TestClient

from api.keys import KeyRing, scope_of
from api.service import require_key
from dncbm.errors import InvalidInput
from dncbm.keys import SCOPES, add_key, revoke_key
from tests.api.conftest import OPTIONS, build, client_for
from tests.api.fakes import FakePredictor, photo
from tests.api.test_predictions import problem

PREDICT = "/v1/models/clothing/predict"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.toml"


@pytest.fixture
def keys(file: Path) -> dict[str, str]:
    return {scope: add_key(file, f"of-{scope}", [scope])[1] for scope in SCOPES}


def add_changing_routes(app: FastAPI) -> None:
    router = APIRouter(dependencies=[Depends(require_key)])

    @router.post("/v1/models/{model}/curated", openapi_extra={"x-dncbm-scope": "edit"})
    def edit(model: str, request: Request) -> str:
        return str(request.state.key_name)

    @router.post("/v1/unmarked")
    def unmarked() -> None: ...

    @router.delete("/v1/drift", openapi_extra={"x-dncbm-scope": "admin"})
    def forget() -> None: ...

    app.include_router(router)


@pytest.fixture
def client(
    model_dir: Path, predictor: FakePredictor, file: Path, keys: dict[str, str]
) -> TestClient:
    app = build(model_dir, predictor, replace(OPTIONS, api_key="own", keys_file=file))
    add_changing_routes(app)
    return client_for(app)


CALLS = [
    ("GET", "/v1/models", "read"),
    ("GET", "/metrics", "read"),
    ("GET", "/report/clothing", "read"),
    ("POST", PREDICT, "predict"),
    ("POST", "/v1/models/clothing/curated", "edit"),
    ("POST", "/v1/unmarked", "edit"),
    ("DELETE", "/v1/drift", "admin"),
]


@pytest.mark.parametrize("own", SCOPES)
@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
def test_a_route_asks_for_its_scope(
    client: TestClient, keys: dict[str, str], own: str, method: str, path: str, scope: str
) -> None:
    files = {"image": photo(1)} if path == PREDICT else None
    answer = client.request(method, path, headers={"X-API-Key": keys[own]}, files=files)
    if SCOPES.index(own) >= SCOPES.index(scope):
        assert answer.status_code == 200
    else:
        detail = problem(answer, 403)
        assert f"scope {scope!r}" in detail
        assert f"'of-{own}'" in detail
        assert answer.json()["type"] == "urn:dncbm:problem:forbidden"


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
def test_without_a_key_nothing_goes(client: TestClient, method: str, path: str, scope: str) -> None:
    problem(client.request(method, path), 401)
    problem(client.request(method, path, headers={"X-API-Key": "dncbm_x"}), 401)


def test_the_single_key_may_do_everything(client: TestClient) -> None:
    assert client.delete("/v1/drift", headers={"X-API-Key": "own"}).status_code == 200


def test_a_key_goes_in_as_password_too(client: TestClient, keys: dict[str, str]) -> None:
    basic = base64.b64encode(f"x:{keys['read']}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    assert client.get("/report/clothing", headers=headers).status_code == 200


def test_routes_see_the_name_of_the_key(client: TestClient, keys: dict[str, str]) -> None:
    answer = client.post("/v1/models/m/curated", headers={"X-API-Key": keys["edit"]})
    assert answer.json() == "of-edit"


def test_the_page_asks_for_a_key(client: TestClient) -> None:
    assert 'data-key="needed"' in client.get("/").text


def test_a_change_of_the_file_is_in_force_at_once(
    client: TestClient, keys: dict[str, str], file: Path
) -> None:
    headers = {"X-API-Key": keys["read"]}
    assert client.get("/v1/models", headers=headers).status_code == 200
    revoke_key(file, "of-read")
    assert client.get("/v1/models", headers=headers).status_code == 401
    _, new = add_key(file, "new", ["read"])
    assert client.get("/v1/models", headers={"X-API-Key": new}).status_code == 200


def test_a_damaged_file_keeps_the_keys_that_were_read(
    file: Path, keys: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing(path=file)
    file.write_text("[[keys")
    caller = ring.caller(keys["read"].encode())
    assert caller is not None
    assert caller.name == "of-read"
    assert "stay in force" in caplog.text
    assert keys["read"] not in caplog.text


def test_a_key_ends_by_the_clock(file: Path) -> None:
    end = datetime.now(UTC) + timedelta(days=1)
    _, text = add_key(file, "brief", ["read"], end)
    assert KeyRing(path=file, clock=lambda: end - timedelta(seconds=1)).caller(text.encode())
    assert KeyRing(path=file, clock=lambda: end).caller(text.encode()) is None


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="keys file"):
        KeyRing(path=tmp_path / "none.toml")


def test_a_file_without_keys_lets_nobody_in(file: Path) -> None:
    add_key(file, "one", ["read"])
    revoke_key(file, "one")
    ring = KeyRing(path=file)
    assert ring.is_asked
    assert ring.caller(b"") is None


@pytest.mark.parametrize(
    ("path", "method", "scope"),
    [
        ("/v1/models/{model}", "GET", "read"),
        ("/v1/models/{model}", "HEAD", "read"),
        ("/v1/models/{model}/intervene", "POST", "predict"),
        ("/v1/models/{model}:explain", "POST", "predict"),
        ("/v2/models/{model}/infer", "POST", "predict"),
        ("/v1/dictionaries/{dictionary}/similar", "POST", "predict"),
        ("/v1/jobs", "POST", "edit"),
        ("/v1/models/{model}/predict", "PUT", "edit"),
        ("/v1/aliases/{alias}", "DELETE", "edit"),
    ],
)
def test_scope_by_method_and_last_word(path: str, method: str, scope: str) -> None:
    route = SimpleNamespace(path=path, openapi_extra=None)
    assert scope_of(route, method) == scope
    marked = SimpleNamespace(path=path, openapi_extra={"x-dncbm-scope": "admin"})
    assert scope_of(marked, method) == "admin"
