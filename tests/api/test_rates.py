from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.rates import RateLimiter, TooManyRequests
from api.settings import Rate
from tests.api.conftest import OPTIONS, build
from tests.api.fakes import FakePredictor
from tests.api.test_predictions import problem


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_fills_again() -> None:
    clock = Clock()
    limiter = RateLimiter(Rate(3, 60.0), clock)
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(TooManyRequests) as caught:
        limiter.take("a")
    assert caught.value.headers == {"Retry-After": "20"}
    limiter.take("b")  # another caller has a bucket of its own
    clock.now = 19.9
    with pytest.raises(TooManyRequests):
        limiter.take("a")
    clock.now = 20.1
    limiter.take("a")
    with pytest.raises(TooManyRequests):
        limiter.take("a")
    clock.now = 1e6  # never more than the bucket holds
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(TooManyRequests):
        limiter.take("a")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.rates._MOST_CALLERS", 2)
    limiter = RateLimiter(Rate(1, 60.0), Clock())
    for caller in "abc":
        limiter.take(caller)
    assert list(limiter._buckets) == ["b", "c"]


@pytest.mark.parametrize(
    ("text", "rate"),
    [("60/minute", Rate(60, 60)), ("5/second", Rate(5, 1)), (" 1/hour ", Rate(1, 3600))],
)
def test_rates_are_read(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["", "60", "0/minute", "x/minute", "6/day", "-1/hour", "1.5/hour"])
def test_wrong_rates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="60/minute"):
        Rate.parse(text)


def service(path: Path, client: str = "10.0.0.9", **changes: object) -> TestClient:
    options = replace(OPTIONS, rate_limit=Rate(2, 3600), **changes)  # type: ignore[arg-type]
    app = build(path, FakePredictor(), options)
    return TestClient(app, raise_server_exceptions=False, client=(client, 1))


def test_429_tells_when_to_come_again(model_dir: Path) -> None:
    client = service(model_dir)
    assert [client.get("/v1/models").status_code for _ in range(2)] == [200, 200]
    answer = client.get("/v1/models")
    assert "Try again in 1800 s" in problem(answer, 429)
    assert answer.headers["retry-after"] == "1800"
    assert answer.json()["type"] == "urn:dncbm:problem:too-many-requests"
    assert client.get("/healthz").status_code == 200


def test_wrong_keys_are_counted_by_address_and_right_ones_by_name(model_dir: Path) -> None:
    client = service(model_dir, api_key="own")
    statuses = [client.get("/v1/models", headers={"X-API-Key": "x"}).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert client.get("/v1/models", headers={"X-API-Key": "own"}).status_code == 200


def test_forwarded_addresses_count_only_from_trusted_proxies(model_dir: Path) -> None:
    def statuses(client: TestClient) -> list[int]:
        return [
            client.get("/v1/models", headers={"X-Forwarded-For": f"1.2.3.{n}"}).status_code
            for n in range(3)
        ]

    assert statuses(service(model_dir)) == [200, 200, 429]
    trusted = ("10.0.0.0/8",)
    assert statuses(service(model_dir, trusted_proxies=trusted)) == [200, 200, 200]
    assert statuses(service(model_dir, "11.0.0.1", trusted_proxies=trusted)) == [200, 200, 429]
