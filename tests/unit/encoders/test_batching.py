import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
import torch
from torch import Tensor

from dncbm.encoders import batching
from dncbm.encoders.batching import Batcher, _Spread, threads_alone
from dncbm.encoders.streams import Streams
from dncbm.errors import InvalidInput, Unavailable

ONE = Streams(1, 1)
LONG = 600.0


def pixels(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2)


class Gated:
    """Rows are twice the pixel; passes stop at a gate where there is one; NaN is an error."""

    def __init__(self) -> None:
        self.gate: threading.Event | None = None
        self.entered = threading.Semaphore(0)
        self.passes: list[list[float]] = []

    def __call__(self, batch: Tensor) -> Tensor:
        values = batch[:, 0, 0, 0]
        self.passes.append(values.tolist())
        self.entered.release()
        if self.gate is not None:
            assert self.gate.wait(60)
        if values.isnan().any():
            raise ArithmeticError("not a number")
        return 2 * values[:, None]


def reached(state: Callable[[], bool]) -> bool:
    pause = threading.Event()
    return any(state() or pause.wait(0.002) for _ in range(10_000))


def waiting(batcher: Batcher, number: int) -> bool:
    return reached(lambda: len(batcher._waiting) == number)


def behind_a_pass(
    backend: Gated, batcher: Batcher, pool: ThreadPoolExecutor, *calls: Tensor
) -> list["Future[Tensor]"]:
    """The calls, made one after the other while a pass over another one runs."""
    backend.gate = threading.Event()
    made = [pool.submit(batcher, pixels(0.0))]
    assert backend.entered.acquire(timeout=60)
    for number, call in enumerate(calls, start=1):
        made.append(pool.submit(batcher, call))
        assert waiting(batcher, number)
    return made


def let_go(backend: Gated, made: list["Future[Tensor]"]) -> list[float]:
    """Open the gate once one more pass has begun; the single rows of the calls."""
    assert backend.entered.acquire(timeout=60)
    assert backend.gate is not None
    backend.gate.set()
    return [future.result(60).item() for future in made]


def test_calls_that_come_during_a_pass_make_the_next_one() -> None:
    backend = Gated()
    batcher = Batcher(backend, ONE, max_batch=4)
    with ThreadPoolExecutor(8) as pool:
        calls = [pixels(1), pixels(2, 3), pixels(4), pixels(5, 6)]
        made = behind_a_pass(backend, batcher, pool, *calls)
        backend.gate.set()
        rows = [future.result(60)[:, 0].tolist() for future in made]
    assert rows == [[0], [2], [4, 6], [8], [10, 12]]
    assert backend.passes == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_call_of_more_images_than_a_pass_takes_goes_alone() -> None:
    backend = Gated()
    batcher = Batcher(backend, ONE, max_batch=2)
    assert batcher(pixels(1, 2, 3))[:, 0].tolist() == [2, 4, 6]
    assert backend.passes == [[1, 2, 3]]


def test_a_failing_image_fails_its_own_call_only() -> None:
    backend = Gated()
    batcher = Batcher(backend, ONE)
    with ThreadPoolExecutor(8) as pool:
        made = behind_a_pass(backend, batcher, pool, pixels(1), pixels(float("nan")), pixels(3))
        backend.gate.set()
        assert made[1].result(60).item() == 2
        assert made[3].result(60).item() == 6
        with pytest.raises(ArithmeticError, match="not a number"):
            made[2].result(60)
    assert batcher(pixels(4)).item() == 8


class Named:
    """Puts its name before each row; what has 13 in it is an error. Equal by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.finished: list[int] = []
        self.seen: list[str] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __call__(self, rows: Tensor) -> list[str]:
        self.finished.append(len(rows))
        self.seen.append(ASKED.get())
        if (rows == 26).any():
            raise ArithmeticError("thirteen")
        return [f"{self.name}{row.item():g}" for row in rows]


ASKED: ContextVar[str] = ContextVar("asked", default="nobody")


def test_calls_of_a_pass_that_are_finished_alike_are_finished_together() -> None:
    backend = Gated()
    batcher = Batcher(backend, ONE)
    one, same, other = Named("a"), Named("a"), Named("b")

    def asked(by: str, pixels: Tensor, finish: Named) -> "Sequence[str]":
        ASKED.set(by)
        return batcher.finished(pixels, finish)

    with ThreadPoolExecutor(8) as pool:
        backend.gate = threading.Event()
        made: list[Future[Any]] = [pool.submit(batcher, pixels(0))]
        assert backend.entered.acquire(timeout=60)
        calls = [
            ("x", pixels(1, 2), one), ("y", pixels(3), other), ("z", pixels(4), same),
        ]  # fmt: skip
        for number, call in enumerate(calls, start=1):
            made.append(pool.submit(asked, *call))
            assert waiting(batcher, number)
        made.append(pool.submit(batcher, pixels(5)))
        assert waiting(batcher, 4)
        backend.gate.set()
        found = [future.result(60) for future in made]
    assert found[1:4] == [["a2", "a4"], ["b6"], ["a8"]]
    assert found[4].item() == 10
    assert backend.passes == [[0], [1, 2, 3, 4, 5]]
    assert (one.finished, same.finished, other.finished) == ([3], [], [1])
    assert (one.seen, other.seen) == (["x"], ["y"])


def test_what_cannot_be_finished_fails_its_own_call_only() -> None:
    backend = Gated()
    batcher = Batcher(backend, ONE)
    finish = Named("a")
    with ThreadPoolExecutor(8) as pool:
        backend.gate = threading.Event()
        made: list[Future[Any]] = [pool.submit(batcher, pixels(0))]
        assert backend.entered.acquire(timeout=60)
        for number, value in enumerate((1, 13, 3), start=1):
            made.append(pool.submit(batcher.finished, pixels(value), finish))
            assert waiting(batcher, number)
        backend.gate.set()
        assert made[1].result(60) == ["a2"]
        assert made[3].result(60) == ["a6"]
        with pytest.raises(ArithmeticError, match="thirteen"):
            made[2].result(60)
    assert finish.finished == [3, 1, 1, 1]


def first_pixels(batch: Tensor) -> Tensor:
    return batch[:, :1, 0, 0]


def test_a_stream_that_waits_keeps_nothing_alive() -> None:
    batcher = Batcher(first_pixels, ONE)
    finish = Named("a")
    assert batcher.finished(pixels(1), finish) == ["a1"]
    gone = weakref.ref(finish)
    del finish
    assert reached(lambda: gone() is None)


class _Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, rows: Tensor) -> list[float]:
        return rows[:, 0].tolist()


def test_what_cannot_be_grouped_is_refused_where_it_is_asked() -> None:
    batcher = Batcher(first_pixels, ONE)
    with pytest.raises(TypeError, match="unhashable"):
        batcher.finished(pixels(1), _Unhashable())
    assert batcher(pixels(4)).item() == 4


def test_what_follows_a_pass_is_no_part_of_its_time() -> None:
    """Else a long list of one call would be taken for cores that others keep busy."""
    times = iter([0.0, 1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching.time, "perf_counter", lambda: next(times))  # a third look fails
        batcher = Batcher(first_pixels, ONE)
        assert batcher.finished(pixels(1), Named("a")) == ["a1"]
        assert reached(lambda: len(batcher._idle) == 1)
    assert batcher._pass_seconds == 1.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have no niceness")
def test_passes_step_back_behind_what_is_short() -> None:
    nice: list[int] = []

    def embed(batch: Tensor) -> Tensor:
        nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return batch[:, :, 0, 0]

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    Batcher(embed, ONE)(pixels(1))
    assert nice == [min(19, own + batching._NICE)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_a_call_that_waits_too_long_is_given_up_and_never_computed() -> None:
    backend = Gated()
    batcher = Batcher(backend, ONE, wait_seconds=LONG)
    with ThreadPoolExecutor(8) as pool:
        backend.gate = threading.Event()
        first = pool.submit(batcher, pixels(1))
        assert backend.entered.acquire(timeout=60)
        batcher._wait_seconds = 0.05
        late = pool.submit(batcher, pixels(2))
        with pytest.raises(Unavailable, match=r"within 0.05 s. Try again"):
            late.result(60)
        backend.gate.set()
        assert first.result(60).item() == 2
    backend.gate = None
    batcher._wait_seconds = LONG
    assert batcher(pixels(7)).item() == 14
    assert backend.passes == [[1], [7]]


def test_a_lone_call_waits_for_nobody() -> None:
    backend = Gated()
    batcher = Batcher(backend, ONE, linger=LONG)
    assert batcher(pixels(1)).item() == 2
    with batcher.expected():
        assert batcher(pixels(3)).item() == 6  # it was the one that is expected
    with pytest.raises(KeyError), batcher.expected():
        raise KeyError
    assert batcher(pixels(4)).item() == 8
    assert batcher._expected == 0


def test_a_pass_waits_for_calls_that_are_on_their_way() -> None:
    backend = Gated()
    batcher = Batcher(backend, ONE, linger=LONG)
    go = threading.Event()

    def prepared() -> Tensor:
        with batcher.expected():
            assert go.wait(60)
            return batcher(pixels(2))

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(prepared)
        assert reached(lambda: batcher._expected == 1)
        quick = pool.submit(batcher, pixels(1))
        assert waiting(batcher, 1)
        go.set()
        assert [quick.result(60).item(), slow.result(60).item()] == [2, 4]
    assert backend.passes == [[1, 2]]


def test_streams_that_have_nothing_to_do_share_the_queue() -> None:
    backend = Gated()
    batcher = Batcher(backend, Streams(2, 1), linger=LONG)
    backend.gate = threading.Event()
    with ThreadPoolExecutor(8) as pool, ThreadPoolExecutor(1) as late:
        made = []
        with batcher.expected():  # holds passes back until all calls wait
            for value in range(4):
                made.append(pool.submit(batcher, pixels(value)))
                assert waiting(batcher, value + 1)
        for _ in range(2):
            assert backend.entered.acquire(timeout=60)
        late.submit(backend.gate.set)
        assert [future.result(60).item() for future in made] == [0, 2, 4, 6]
    assert sorted(map(len, backend.passes)) == [2, 2]


def test_only_the_first_stream_spreads_over_the_cores_and_only_when_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "_SLOW", float("inf"))  # however busy the machine is
    threads: list[int] = []
    backend = Gated()

    def embed(batch: Tensor) -> Tensor:
        threads.append(torch.get_num_threads())
        return backend(batch)

    batcher = Batcher(embed, Streams(2, 1), alone_threads=2)
    assert reached(lambda: len(batcher._idle) == 2)
    for value in range(20):  # whichever thread the system wakes first
        assert batcher(pixels(value)).item() == 2 * value
        assert backend.entered.acquire(timeout=60)
        assert reached(lambda: len(batcher._idle) == 2)
    assert threads == [2] * 20
    with ThreadPoolExecutor(2) as pool:
        made = behind_a_pass(backend, batcher, pool)
        made.append(pool.submit(batcher, pixels(9)))
        assert let_go(backend, made) == [0, 18]
    assert threads[20:] == [2, 1]


def test_after_a_slow_pass_all_cores_are_left_alone_for_a_minute() -> None:
    now = [0.0]
    spread = _Spread(8, lambda: now[0])
    for images, seconds in ((1, 0.01), (16, 0.1), (1, 0.03), (16, 0.3)):
        spread.note(images, seconds)
        assert spread.threads(1) == 8
    spread.note(1, 0.05)
    now[0] = 59.0
    assert spread.threads(1) == 1
    now[0] = 60.0
    assert spread.threads(1) == 8


def test_while_others_run_a_pass_gathers_calls_until_it_is_full() -> None:
    backend = Gated()
    batcher = Batcher(backend, Streams(2, 1), linger=0.0, max_batch=4)
    with ThreadPoolExecutor(8) as pool:
        made = behind_a_pass(backend, batcher, pool)
        batcher._settle = lambda: LONG  # type: ignore[method-assign]
        for number in range(1, 4):
            made.append(pool.submit(batcher, pixels(number)))
            assert waiting(batcher, number)
        made.append(pool.submit(batcher, pixels(4)))
        assert let_go(backend, made) == [0, 2, 4, 6, 8]
    assert backend.passes == [[0], [1, 2, 3, 4]]


def test_every_call_gets_its_own_rows() -> None:
    sizes: list[int] = []
    batcher = Batcher(Gated(), Streams(2, 1), max_batch=8)
    batcher.on_pass = sizes.append

    def ask(seed: int) -> bool:
        values = torch.arange(1 + seed % 3, dtype=torch.float32) + seed
        with batcher.expected():
            return torch.equal(batcher(pixels(*values.tolist()))[:, 0], 2 * values)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(600)))
    assert sum(sizes) == sum(1 + seed % 3 for seed in range(600))
    assert max(sizes) <= 8


def test_a_closed_batcher_refuses() -> None:
    batcher = Batcher(Gated(), Streams(2, 1))
    batcher.close()
    with pytest.raises(Unavailable, match="shutting down"):
        batcher(pixels(1))


def test_numbers_below_their_minimum() -> None:
    with pytest.raises(InvalidInput, match="max_batch >= 1"):
        Batcher(Gated(), ONE, max_batch=0)


@pytest.mark.parametrize(("all_cores", "threads"), [(0.5, 4), (0.95, 1), (3.0, 1)])
def test_all_cores_only_where_they_are_clearly_faster(all_cores: float, threads: int) -> None:
    now = [0.0]

    def backend(batch: Tensor) -> Tensor:
        now[0] += all_cores if torch.get_num_threads() == 4 else 1.0
        return batch

    before = torch.get_num_threads()
    found = threads_alone(backend, pixels(1), Streams(4, 1), clock=lambda: now[0])
    assert found == threads
    assert torch.get_num_threads() == before
