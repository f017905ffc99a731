"""Batches in flight at once come back in order and are bounded in number."""

import threading

import pytest
import torch
from threadpoolctl import threadpool_info

from dncbm.encoders.streams import Streams, streamed, streams_for, threads_of


def test_results_keep_the_order_of_the_items() -> None:
    first = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            assert first.wait(5)
        if item == 1:
            first.set()
        return item * item

    assert list(streamed(slow_first, range(9), Streams(2, 1))) == [i * i for i in range(9)]


def test_items_are_taken_only_a_little_ahead() -> None:
    taken: list[int] = []

    def items():
        for item in range(20):
            taken.append(item)
            yield item

    results = streamed(lambda item: item, items(), Streams(2, 1))
    assert next(results) == 0
    assert len(taken) == 4
    results.close()
    assert len(taken) == 4


def test_an_error_of_one_item_comes_out_and_ends_the_rest() -> None:
    def odd(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    before = set(threading.enumerate())
    results = streamed(odd, range(100), Streams(1, 1))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(results)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("cores", "device", "expected"),
    [
        (1, "cpu", Streams(1, 1)),
        (2, "cpu", Streams(2, 1)),
        (16, "cpu", Streams(16, 1)),
        (64, "cpu", Streams(16, 4)),
        (8, "cuda:1", Streams(1, 8)),
    ],
)
def test_cores_become_streams(
    monkeypatch: pytest.MonkeyPatch, cores: int, device: str, expected: Streams
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert streams_for(device) == expected


def _openmp_threads(_: int) -> set[int]:
    """What a product would take in this thread, before PyTorch is asked anything in it."""
    libraries = threadpool_info()
    return {lib["num_threads"] for lib in libraries if lib["user_api"] == "openmp"}


def test_threads_of_a_stream_hold_inside_alone_and_in_new_threads() -> None:
    torch.set_num_threads(3)
    streams = Streams(3, 1)
    with threads_of(streams):
        found = list(streamed(lambda _: torch.get_num_threads(), range(3), streams))
        assert found == [1, 1, 1]
    assert torch.get_num_threads() == 3
    for seen in streamed(_openmp_threads, range(3), Streams(1, 2)):
        assert 2 in seen
