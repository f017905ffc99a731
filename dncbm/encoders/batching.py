"""Passes of one backend that calls of several threads share.

A pass over many images costs far less than as many passes over one, so calls that come while a
pass runs are put together into the next. A call that comes alone starts at once: a pass waits
only for calls that said beforehand that they are on their way (`Batcher.expected`), and for
these a few milliseconds at most. An image gets the same embedding in any company up to
rounding, since products of another size may be summed in another order.
"""

import logging
import math
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.encoders.streams import Streams
from dncbm.errors import InvalidInput, Unavailable

_log = logging.getLogger(__name__)

Embed = Callable[[Tensor], Tensor]
"""Preprocessed images (n, 3, h, w) to embeddings (n, d), from several threads at once."""

_Answer = TypeVar("_Answer")

MAX_BATCH = 32
"""Images of one pass: throughput is flat beyond it."""
LINGER = 0.004
_BUSY_PATIENCE = 4
_SETTLE = 0.01
_SETTLE_SHARE = 0.25
_SLOW = 4.0
_PAUSE = 60.0
_CLEARLY_FASTER = 1.15
_TRIES = 5
_NICE = 3
"""At 128 clients 350 photos per second in place of 300 (two cores, `mini`)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    pixels: Tensor
    finish: Callable[[Tensor], Sequence[Any]] | None = None
    context: Context = field(default_factory=copy_context)
    answer: Future[Any] = field(default_factory=Future)


def _step_back() -> None:
    """Let other threads run before this one, which computes for long without a pause.

    Decoding and answering are short, and would each time wait until a pass has used up its turn on
    the core. No more than a few steps, since other programs run before it as well.
    """
    if sys.platform == "linux":  # elsewhere the process as a whole would step back
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox that allows none of this
            nice = os.getpriority(os.PRIO_PROCESS, thread) + _NICE
            os.setpriority(os.PRIO_PROCESS, thread, min(19, nice))


class _Spread:
    """Threads of a lone pass: all that are given, but for a while after it was slow its own only.

    The members of a team wait for each other by spinning. On cores that other programs keep busy
    each waits for one that does not run, and a pass of 10 ms took three seconds.
    """

    def __init__(self, threads: int, clock: Callable[[], float]) -> None:
        self._threads = threads
        self._clock = clock
        self._quickest: dict[int, float] = {}
        self._not_before = -math.inf

    def threads(self, own: int) -> int:
        """How many to use now; `own` are those of a stream."""
        return self._threads if self._clock() >= self._not_before else own

    def note(self, images: int, seconds: float) -> None:
        """Tell how long a lone pass over so many images took."""
        quickest = min(seconds, self._quickest.get(images, seconds))
        self._quickest[images] = quickest
        if seconds > _SLOW * quickest:
            self._not_before = self._clock() + _PAUSE


@final
class Batcher:
    """An `ImageBackend` that puts concurrent calls together.

    Calls are answered in the order in which they came. The queue has no bound of its own: each
    call holds the thread that made it, so callers bound it.

    Args:
        backend: what computes a pass.
        streams: passes at the same time, and threads of each.
        alone_threads: threads of a pass while no other runs; see `threads_alone`. Only the first
            stream takes them: see `dncbm.encoders.streams`.
        max_batch: most images of a pass; a single call may have more.
        linger: seconds that a pass waits for expected calls. While other passes run, which keep
            the cores busy, it waits four times as long, and until calls have ceased to come.
        wait_seconds: longest wait of a call for its rows.

    Raises:
        InvalidInput: a number below its minimum.
    """

    def __init__(
        self,
        backend: Embed,
        streams: Streams,
        *,
        alone_threads: int | None = None,
        max_batch: int = MAX_BATCH,
        linger: float = LINGER,
        wait_seconds: float = 60.0,
    ) -> None:
        if max_batch < 1 or linger < 0 or wait_seconds <= 0:
            raise InvalidInput(
                f"A batcher needs max_batch >= 1, linger >= 0 and wait_seconds > 0; got "
                f"{max_batch}, {linger} and {wait_seconds}."
            )
        self.streams = streams
        self.max_batch = max_batch
        self.on_pass: Callable[[int], None] | None = None
        """Told the number of images of every pass, on the thread of the pass."""
        self._backend = backend
        self._spread = _Spread(alone_threads or streams.threads, time.monotonic)
        self._linger = linger
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._arrived = 0
        self._expected = 0
        self._idle: set[int] = set()
        self._pass_seconds = 0.0
        self._is_closed = False
        self._own = threading.local()
        for number in range(streams.count):
            threading.Thread(
                target=self._work, args=(number,), name=f"encode-{number}", daemon=True
            ).start()

    def __call__(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embeddings of one call's images, computed in the company of others.

        Raises:
            Unavailable: closed, or no pass took the call within `wait_seconds`.
        """
        return self._answered(_Call(pixels))

    def finished(
        self, pixels: Float[Tensor, "n 3 h w"], finish: Callable[[Tensor], Sequence[_Answer]]
    ) -> Sequence[_Answer]:
        """What `finish` makes of one call's embeddings: an answer for each image, in order.

        Calls of one pass with an equal `finish` are finished by a single call of it, in the
        context of the first; so it must be hashable and treat rows independently.

        Raises:
            Unavailable: as for a call.
        """
        hash(finish)  # here rather than on the thread of a pass
        return self._answered(_Call(pixels, finish))

    def _answered(self, call: _Call) -> Any:
        with self._changed:
            if self._is_closed:
                raise Unavailable(
                    "This encoder is closed: the service is shutting down, or the model was "
                    "replaced. Try again shortly."
                )
            self._waiting.append(call)
            self._arrived += 1
            self._arrive()
            self._changed.notify_all()
        try:
            return call.answer.result(self._wait_seconds)
        except TimeoutError as error:
            if call.answer.done() and not call.answer.cancelled():
                raise  # of the backend itself
            call.answer.cancel()
            raise Unavailable(
                f"The encoder did not come to this request within {self._wait_seconds:g} s. "
                "Try again shortly."
            ) from error

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Around what a thread does before its next call: a pass may wait for that call."""
        with self._changed:
            self._expected += 1
        self._own.is_expected = True
        try:
            yield
        finally:
            with self._changed:
                self._arrive()
                self._changed.notify_all()

    def close(self) -> None:
        """End the threads once the calls that wait are answered; later calls are refused."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _arrive(self) -> None:
        """Count the calling thread as expected no longer; under the lock."""
        if getattr(self._own, "is_expected", False):
            self._own.is_expected = False
            self._expected -= 1

    def _work(self, number: int) -> None:
        _step_back()
        while calls := self._next(number):
            threads = self._threads_of(number)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            seconds = self._answer(calls)
            if seconds is not None:
                self._pass_seconds = seconds
                if threads > self.streams.threads:
                    self._spread.note(sum(len(call.pixels) for call in calls), seconds)
            del calls  # a thread that waits keeps neither photos nor a model alive

    def _next(self, number: int) -> list[_Call]:
        """The calls of the next pass, not empty until the batcher is closed."""
        with self._changed:
            self._idle.add(number)
            try:
                while True:
                    self._changed.wait_for(lambda: self._is_wanted(number))
                    self._gather()
                    calls = self._taken()
                    if calls or (self._is_closed and not self._waiting):
                        return calls
            finally:
                self._idle.discard(number)
                self._changed.notify_all()  # the next stream takes what is left

    def _is_wanted(self, number: int) -> bool:
        """Whether this stream has to do something: the others leave the first call to the first."""
        return self._is_closed or bool(self._waiting and (number == 0 or 0 not in self._idle))

    def _gather(self) -> None:
        """Wait for calls that are worth it to be in the same pass."""
        if len(self._idle) == self.streams.count:
            if self._expected:
                self._changed.wait_for(self._is_complete, timeout=self._linger)
            return
        end = time.monotonic() + max(self._linger * _BUSY_PATIENCE, self._settle())
        while not self._is_full() and (left := end - time.monotonic()) > 0:
            seen = self._arrived
            has_come = self._changed.wait_for(
                lambda seen=seen: self._arrived != seen or self._is_full(),  # type: ignore[misc]
                timeout=min(left, left if self._expected else self._settle()),
            )
            if not has_come and not self._expected:
                return

    def _settle(self) -> float:
        """Seconds without a call after which no more are waited for while other passes run."""
        return min(_SETTLE, _SETTLE_SHARE * self._pass_seconds)

    def _is_complete(self) -> bool:
        """Whether nothing is gained by waiting longer."""
        return not self._expected or self._is_full()

    def _is_full(self) -> bool:
        images = sum(len(call.pixels) for call in self._waiting)
        return images >= self.max_batch or self._is_closed

    def _taken(self) -> list[_Call]:
        """From the front of the queue a fair share for the streams that have nothing to do."""
        images = sum(len(call.pixels) for call in self._waiting)
        share = min(self.max_batch, math.ceil(images / max(1, len(self._idle))))
        calls: list[_Call] = []
        count = 0
        while self._waiting and (not calls or count + len(self._waiting[0].pixels) <= share):
            call = self._waiting.popleft()
            if call.answer.set_running_or_notify_cancel():  # not given up meanwhile
                calls.append(call)
                count += len(call.pixels)
        return calls

    def _threads_of(self, number: int) -> int:
        """All cores for the first stream where no other works, else a stream's own."""
        is_alone = len(self._idle) == self.streams.count - 1 and not self._waiting
        own = self.streams.threads
        return self._spread.threads(own) if number == 0 and is_alone else own

    def _answer(self, calls: list[_Call]) -> float | None:
        """Seconds that the pass took, without what follows; None where it failed."""
        started = time.perf_counter()
        try:
            rows = self._pass([call.pixels for call in calls])
            parts = rows.split([len(call.pixels) for call in calls])
        except Exception as error:
            self._answer_singly(calls, error)
            return None
        seconds = time.perf_counter() - started
        together: dict[Any, list[tuple[_Call, Tensor]]] = {}
        for call, part in zip(calls, parts, strict=True):
            together.setdefault(call.finish, []).append((call, part))
        self._finish(together.pop(None, []))  # these wait for nothing
        for members in together.values():
            self._finish(members)
        return seconds

    def _finish(self, members: list[tuple[_Call, Tensor]]) -> None:
        """Answer calls with an equal `finish`; where it fails, each by its own fault only."""
        finish = members[0][0].finish if members else None
        if finish is None:
            for call, part in members:
                call.answer.set_result(part)
            return
        first = members[0][0]
        try:
            found = first.context.run(finish, torch.cat([part for _, part in members]))
        except Exception as error:
            if len(members) == 1:
                first.answer.set_exception(error)
                return
            for member in members:
                self._finish([member])
            return
        start = 0
        for call, part in members:
            call.answer.set_result(found[start : start + len(part)])
            start += len(part)

    def _answer_singly(self, calls: list[_Call], error: Exception) -> None:
        """What fails together is done one by one, so that a call fails by its own fault only."""
        if len(calls) == 1:
            calls[0].answer.set_exception(error)
            return
        _log.warning("A pass over %d calls failed (%s); each is done alone", len(calls), error)
        for call in calls:
            self._answer([call])

    def _pass(self, parts: list[Tensor]) -> Tensor:
        pixels = parts[0] if len(parts) == 1 else torch.cat(parts)
        rows = self._backend(pixels)
        if self.on_pass is not None:
            self.on_pass(len(pixels))
        return rows


def threads_alone(
    backend: Embed,
    image: Float[Tensor, "1 3 h w"],
    streams: Streams,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Threads for a pass over a single image: those of a stream, or all cores if clearly faster.

    Measured here, on a thread of its own, since PyTorch counts threads per thread. Backends
    other than PyTorch's have the threads that they were opened with, and both measure the same.
    """
    if streams.count == 1:
        return streams.threads
    chosen: list[int] = []

    def measure() -> None:
        seconds: dict[int, list[float]] = {streams.threads: [], streams.cores: []}
        for _ in range(_TRIES):
            for threads, found in seconds.items():
                torch.set_num_threads(threads)
                start = clock()
                backend(image)
                found.append(clock() - start)
        # not the best: where other programs take the cores, most passes on all of them are slow
        own, all_cores = (statistics.median(found) for found in seconds.values())
        gain = own / all_cores
        chosen.append(streams.cores if gain > _CLEARLY_FASTER else streams.threads)

    thread = threading.Thread(target=measure, name="encode-trial")
    thread.start()
    thread.join()
    return chosen[0] if chosen else streams.threads
