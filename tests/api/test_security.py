from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import OPTIONS, build, client_for
from tests.api.fakes import FakePredictor
from tests.api.test_predictions import problem

PATHS = [
    "/",
    "/docs",
    "/web/page.js",
    "/openapi.json",
    "/healthz",
    "/v1/models",
    "/report/clothing",
    "/nothing",
    "/v1/dictionaries/clothing/search?text=boom",
]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_closed_in(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'self'" in policy or "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_have_no_inline_script_or_style(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert "unsafe-inline" not in page.headers["content-security-policy"]
    for way in ("<style", "style=", " onclick", " onload", "javascript:", "<script>"):
        assert way not in page.text


def with_options(path: Path, **changes: object) -> TestClient:
    return client_for(build(path, FakePredictor(), replace(OPTIONS, **changes)))  # type: ignore[arg-type]


def test_other_origins_only_where_they_are_named(model_dir: Path) -> None:
    client = with_options(model_dir, cors_origins=("https://a.example",))
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    for origin, allowed in [("https://a.example", True), ("https://b.example", False)]:
        answer = client.get("/v1/models", headers={"Origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
        asked = client.options("/v1/models", headers={"Origin": origin} | preflight)
        assert (asked.status_code == 200) == allowed
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("shop.example", 200),
        ("SHOP.example:8000", 200),
        ("a.wild.example", 200),
        ("wild.example", 400),
        ("localhost:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("shop.example.evil.example", 400),
    ],
)
def test_the_host_must_be_ours(model_dir: Path, host: str, status: int) -> None:
    client = with_options(model_dir, allowed_hosts=("shop.example", "*.wild.example"))
    answer = client.get("/v1/models", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert "DNCBM_ALLOWED_HOSTS" in problem(answer, 400)
        assert host not in answer.text
    assert client.get("/healthz", headers={"Host": host}).status_code == 200
