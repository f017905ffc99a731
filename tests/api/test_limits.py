import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from api.errors import Overloaded
from api.limits import InferenceLimiter
from tests.api.conftest import OPTIONS, build, client_for
from tests.api.fakes import FakePredictor, photo

URL = "/v1/models/clothing/predict"


def reached(state: Callable[[], bool]) -> bool:
    """Wait for a state that another thread brings about; False after about 20 s without it."""
    pause = threading.Event()
    return any(state() or pause.wait(0.005) for _ in range(4000))


def test_overload_answers_503_at_once_and_recovers(
    model_dir: Path, predictor: FakePredictor
) -> None:
    predictor.gate = threading.Event()
    app = build(model_dir, predictor, replace(OPTIONS, concurrency=1, waiting=1))
    limiter = app.state.service.limiter
    with client_for(app) as client, ThreadPoolExecutor(2) as pool:

        def post() -> Any:
            return client.post(URL, files={"image": photo(1)})

        held: list[Future[Any]] = [pool.submit(post)]
        assert predictor.entered.acquire(timeout=20)
        held.append(pool.submit(post))
        assert reached(lambda: limiter.admitted == 2)
        refused = post()
        search = client.get("/v1/dictionaries/clothing/search", params={"text": "red"})
        ready = client.get("/readyz")
        alive = client.get("/healthz")
        browse = client.get("/v1/dictionaries/clothing/concepts")
        predictor.gate.set()
        answers = [future.result(20) for future in held]
        after = post()
    for response in (refused, search, ready):
        assert response.status_code == 503
        assert response.json()["type"] == "urn:dncbm:problem:unavailable"
        assert int(response.headers["retry-after"]) >= 1
    assert alive.status_code == browse.status_code == 200
    assert [response.status_code for response in (*answers, after)] == [200, 200, 200]
    assert limiter.admitted == 0


def test_a_wait_that_takes_too_long_ends() -> None:
    limiter = InferenceLimiter(concurrency=1, waiting=1, wait_seconds=0.01)
    with (
        limiter.slot(),
        pytest.raises(Overloaded, match=r"No inference slot became free within 0.01 s"),
        limiter.slot(),
    ):
        pass
    assert limiter.admitted == 0


def test_a_failing_call_gives_its_slot_back() -> None:
    limiter = InferenceLimiter(concurrency=1, waiting=0, wait_seconds=0)
    for _ in range(3):
        with pytest.raises(ValueError, match="boom"), limiter.slot():
            raise ValueError("boom")
    assert not limiter.is_full


def test_full_names_the_capacity() -> None:
    limiter = InferenceLimiter(concurrency=1, waiting=0, wait_seconds=0)
    with limiter.slot(), pytest.raises(Overloaded, match="runs or queues 1 inference"):
        limiter.refuse_when_full()


def test_a_thread_with_a_slot_computes_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with InferenceLimiter(concurrency=1, waiting=0, wait_seconds=0).slot():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_what_is_there_at_the_start_is_not_collected_again(
    model_dir: Path, predictor: FakePredictor
) -> None:
    with client_for(build(model_dir, predictor)):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
