import threading

import pytest

from dncbm.training.prefetch import Prefetched


def test_items_come_in_whatever_order_they_are_asked_for() -> None:
    items = Prefetched(lambda number: number**2, 10, ahead=3)
    assert [items[number] for number in (0, 1, 2, 7, 8, 3, 9)] == [0, 1, 4, 49, 64, 9, 81]
    items.close()


def test_the_next_ones_are_fetched_before_they_are_asked_for() -> None:
    started = {number: threading.Event() for number in range(5)}

    def fetch(number: int) -> int:
        started[number].set()
        return number

    items = Prefetched(fetch, 5, ahead=2)
    assert items[0] == 0
    assert started[1].wait(5)
    assert started[2].wait(5)
    assert not started[3].is_set()
    items.close()


def test_nothing_is_fetched_twice_or_beyond_the_end() -> None:
    asked: list[int] = []
    items = Prefetched(lambda number: asked.append(number) or number, 4, ahead=3)
    assert [items[number] for number in range(4)] == [0, 1, 2, 3]
    items.close()
    assert sorted(asked) == [0, 1, 2, 3]


def test_a_failure_reaches_the_one_who_asks() -> None:
    def fetch(number: int) -> int:
        if number == 1:
            raise OSError("gone")
        return number

    items = Prefetched(fetch, 3)
    assert items[0] == 0
    with pytest.raises(OSError, match="gone"):
        items[1]
    items.close()
