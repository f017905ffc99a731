"""Several batches in flight at once, each on a thread of its own, results in order.

A forward pass that is spread over all cores waits at every product for its slowest thread, so a
decoder that takes one core stalls them all. Independent batches never wait for each other, the
system divides the cores between them and the decoders, and since a batch stays on one thread its
embeddings have the same bits whatever the number of cores.

Of the threads of a process only one may spread its work over all cores. GNU OpenMP lets the members
of a team wait for each other by spinning only while the threads of all teams together fit the
cores; with a second team they sleep at every barrier, and a pass of `mini` took 25 ms in place of
10. A team lasts as long as the thread that began it, so a thread that computes now and then
(`compute_alone`) has none.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_MOST_STREAMS = 16
"""Each stream holds the activations of a batch; beyond this, streams get more threads instead."""


@dataclass(frozen=True, slots=True)
class Streams:
    """How forward passes share the cores: so many batches at once, so many threads for each."""

    count: int
    threads: int

    @property
    def cores(self) -> int:
        """Cores that are busy when all streams are."""
        return self.count * self.threads


def streams_for(device: str, cores: int | None = None) -> Streams:
    """One stream per core that PyTorch may use, one on a GPU, which parallelises by itself."""
    cores = cores or torch.get_num_threads()
    if not device.startswith("cpu"):
        return Streams(1, cores)
    count = min(cores, _MOST_STREAMS)
    return Streams(count, cores // count)


def compute_alone() -> None:
    """Let PyTorch use this thread only for what this thread computes from now on."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@contextmanager
def threads_of(streams: Streams) -> Iterator[None]:
    """Give PyTorch the threads of one stream in this thread, and put them back."""
    before = torch.get_num_threads()
    torch.set_num_threads(streams.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def streamed(
    function: Callable[[_In], _Out], items: Iterable[_In], streams: Streams
) -> Iterator[_Out]:
    """`function` of each item, in order, `streams.count` at a time.

    Items are taken while earlier ones are at work, no more than twice as many as there are
    streams: memory is bounded, and no stream waits for the next item to be read.
    """
    # Each thread says it for itself: the maths libraries would take all cores in a new thread
    # until PyTorch first tells them otherwise, and more threads may change the last bit.
    pool = ThreadPoolExecutor(
        streams.count, "encode", initializer=torch.set_num_threads, initargs=(streams.threads,)
    )
    waiting: deque[Future[_Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * streams.count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
