"""Bounds that keep the service answering: request size, uploads read, concurrent inference."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import Overloaded, PayloadTooLarge, UploadTooSlow
from dncbm.encoders.streams import compute_alone


class Turn:
    """A slot that is held; belongs to one thread."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def end(self) -> None:
        """Hand the slot to the next one who waits; again is harmless."""
        if self._release is not None:
            self._release()
        self._release = None


class InferenceLimiter:
    """At most `concurrency` calls run, at most `waiting` wait, nobody waits for long."""

    def __init__(self, concurrency: int, waiting: int, wait_seconds: float) -> None:
        self._slots = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._capacity = concurrency + waiting
        self._wait_seconds = wait_seconds
        self._admitted = 0
        self._running = 0

    @property
    def running(self) -> int:
        """Calls that hold a slot now."""
        return self._running

    @property
    def admitted(self) -> int:
        """Calls that run or wait now."""
        return self._admitted

    @property
    def is_full(self) -> bool:
        """Whether a new call would be turned away at once."""
        return self._admitted >= self._capacity

    def refuse_when_full(self) -> None:
        """Raise `Overloaded` now rather than after reading an upload."""
        if self.is_full:
            raise Overloaded(
                f"The service already runs or queues {self._capacity} inference requests, its "
                "limit. Try again shortly."
            )

    @contextmanager
    def slot(self) -> Iterator["Turn"]:
        """Hold one of the inference slots, waiting for it in bounded company and time.

        Who goes on with little (a batcher computes for many) may hand the slot on with
        `Turn.end`; the call still counts as admitted until it is done.
        """
        with self._lock:
            self.refuse_when_full()
            self._admitted += 1
        try:
            if not self._slots.acquire(timeout=self._wait_seconds):
                raise Overloaded(
                    f"No inference slot became free within {self._wait_seconds:g} s. "
                    "Try again shortly."
                )
            self._count_running(1)
            turn = Turn(self._release)
            compute_alone()
            try:
                yield turn
            finally:
                turn.end()
        finally:
            with self._lock:
                self._admitted -= 1

    def _release(self) -> None:
        self._count_running(-1)
        self._slots.release()

    def _count_running(self, change: int) -> None:
        with self._lock:
            self._running += change


class UploadLimiter:
    """At most `places` uploads are read at a time, each for at most `seconds`.

    Slow clients hold these places only, none of the inference slots. Counts without a lock:
    it belongs to the event loop.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self._places = places
        self._seconds = seconds
        self._reading = 0

    @property
    def reading(self) -> int:
        """Uploads that are being read now."""
        return self._reading

    @property
    def is_full(self) -> bool:
        """Whether a new upload would be turned away at once."""
        return self._reading >= self._places

    def refuse_when_full(self) -> None:
        """Raise `Overloaded` unless an upload would be read now."""
        if self.is_full:
            raise Overloaded(
                f"The service already reads {self._places} uploads, its limit. Try again shortly."
            )

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold one of the places while reading.

        Raises:
            Overloaded: all are taken.
            UploadTooSlow: reading took longer than `seconds`.
        """
        self.refuse_when_full()
        self._reading += 1
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except TimeoutError as error:
            raise UploadTooSlow(self._seconds) from error
        finally:
            self._reading -= 1


_SMALL = 256 * 1024
"""Bytes of a body without photos."""
_UPLOADS = ("predict", "explain", "intervene", "search", "similar", "infer")


class BodyLimit:
    """ASGI middleware: a body over `limit` bytes ends in 413 while it is being read.

    FastAPI reads and parses JSON bodies before it asks for a key, on the event loop: so bodies that
    carry no photos are small, and come within `seconds`. The error is raised from `receive`, so it
    reaches the application's own handlers, and a declared length over the limit is refused before
    the first byte is read.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float = 60.0) -> None:
        self.app = app
        self.limit = limit
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counting `receive`."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        is_upload = scope["path"].endswith(_UPLOADS)
        limit = self.limit if is_upload else min(self.limit, _SMALL)
        end = asyncio.get_running_loop().time() + self.seconds
        seen, whole = 0, is_upload  # uploads have a time limit of their own
        declared = _declared_length(scope)

        async def counted() -> Message:
            nonlocal seen, whole
            if declared > limit:
                raise PayloadTooLarge(limit)
            message = await receive() if whole else await self._in_time(receive, end)
            whole = whole or not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > limit:
                raise PayloadTooLarge(limit)
            return message

        await self.app(scope, counted, send)

    async def _in_time(self, receive: Receive, end: float) -> Message:
        try:
            async with asyncio.timeout_at(end):
                return await receive()
        except TimeoutError as error:
            raise UploadTooSlow(self.seconds) from error


def _declared_length(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    # Twenty digits are over any limit; Python refuses to read thousands of them.
    return int(value[:20]) if value.isdigit() else 0
