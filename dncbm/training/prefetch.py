"""Batches fetched by threads while the step before them computes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetched(Generic[Item]):
    """The items of `fetch(0)`, `fetch(1)`, ... in any order, usually one after the other.

    Args:
        fetch: a pure function of the number; called from threads. Reading a mapped file or
            copying an array leaves the interpreter free for the main thread.
        total: numbers from here on do not exist.
        ahead: how many items after the last one asked for are fetched; each in a thread of its
            own, so that as many reads of a disk are under way.
    """

    def __init__(self, fetch: Callable[[int], Item], total: int, *, ahead: int = 2) -> None:
        self._fetch, self._total, self._ahead = fetch, total, ahead
        self._threads = ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="prefetch")
        self._pending: dict[int, Future[Item]] = {}

    def __getitem__(self, number: int) -> Item:
        """The item, and the start of those after it."""
        wanted = range(number, min(number + 1 + self._ahead, self._total))
        for old in [key for key in self._pending if key not in wanted]:
            self._pending.pop(old).cancel()
        for key in wanted:
            if key not in self._pending:
                self._pending[key] = self._threads.submit(self._fetch, key)
        return self._pending.pop(number).result()

    def close(self) -> None:
        """Stop fetching."""
        self._threads.shutdown(wait=True, cancel_futures=True)
