"""Uploads while they are being read, at the level of ASGI: slow, endless and broken off."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.api.conftest import OPTIONS, build
from tests.api.fakes import FakePredictor

URL = "/v1/models/clothing/predict"
FORM = "multipart/form-data; boundary=frontier"
JSON = "application/json"

Receive = Callable[[], Awaitable[dict[str, Any]]]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        return json.loads(self.body)


async def call(app: FastAPI, receive: Receive, path: str = URL, kind: str = JSON) -> Answer:
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST" if path == URL else "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": [(b"content-type", kind.encode())],
        "client": ("test", 1), "server": ("test", 80),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), 20)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(part["body"] for part in sent[1:]))


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def complete() -> dict[str, Any]:
    return {"type": "http.request", "body": b"{}", "more_body": False}


@pytest.mark.parametrize("kind", [FORM, JSON])
def test_an_upload_that_never_ends_is_given_up(
    model_dir: Path, predictor: FakePredictor, kind: str
) -> None:
    app = build(model_dir, predictor, replace(OPTIONS, read_seconds=0.01))
    answer = asyncio.run(call(app, never, kind=kind))
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.problem["type"] == "urn:dncbm:problem:request-timeout"
    assert "not complete after 0.01 s" in answer.problem["detail"]
    assert app.state.service.uploads.reading == 0


def test_uploads_are_read_in_bounded_company(model_dir: Path, predictor: FakePredictor) -> None:
    app = build(model_dir, predictor, replace(OPTIONS, concurrency=1, waiting=1))

    async def scenario() -> tuple[Answer, Answer, Answer, list[Answer], Answer]:
        started, go = asyncio.Semaphore(0), asyncio.Event()

        async def slow() -> dict[str, Any]:
            started.release()
            await go.wait()
            return await complete()

        held = [asyncio.create_task(call(app, slow, kind=kind)) for kind in (FORM, JSON)]
        for _ in held:
            await asyncio.wait_for(started.acquire(), 20)
        refused = await call(app, never)
        ready = await call(app, complete, path="/readyz")
        alive = await call(app, complete, path="/healthz")
        go.set()
        return refused, ready, alive, await asyncio.gather(*held), await call(app, complete)

    refused, ready, alive, held, after = asyncio.run(scenario())
    assert refused.status == ready.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "already reads 2 uploads" in refused.problem["detail"]
    assert alive.status == 200
    assert [answer.status for answer in (*held, after)] == [400, 422, 422]
    assert app.state.service.limiter.admitted == app.state.service.uploads.reading == 0


def test_an_upload_that_is_broken_off_is_no_failure_of_ours(
    model_dir: Path, predictor: FakePredictor, caplog: pytest.LogCaptureFixture
) -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    app = build(model_dir, predictor)
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(call(app, gone)).status == 400
    assert caplog.records == []
    assert app.state.service.uploads.reading == 0
