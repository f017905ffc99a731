"""How often a caller may come: a token bucket each, in this process only.

Several processes behind one address each count for themselves; a limit for all of them belongs
into the proxy in front.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.exceptions import HTTPException

from api.settings import Rate

_MOST_CALLERS = 10_000
"""Buckets kept; the one that was used least recently goes first, and would be full by then."""


class TooManyRequests(HTTPException):
    """The caller came more often than the service allows."""

    def __init__(self, rate: Rate, wait: float) -> None:
        seconds = max(1, math.ceil(wait))
        super().__init__(
            429,
            f"More than {rate.number:,} requests in {rate.seconds:g} s, the limit. Try again in "
            f"{seconds} s.",
            headers={"Retry-After": str(seconds)},
        )


class RateLimiter:
    """A bucket of `rate.number` tokens per caller, filled again within `rate.seconds`."""

    def __init__(self, rate: Rate | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count one request of `caller`.

        Raises:
            TooManyRequests: its bucket is empty; says when the next token comes.
        """
        rate = self._rate
        if rate is None:
            return
        with self._lock:
            now = self._clock()
            tokens, since = self._buckets.pop(caller, (float(rate.number), now))
            filled = tokens + (now - since) * rate.number / rate.seconds
            tokens = min(float(rate.number), filled)
            is_empty = tokens < 1
            self._buckets[caller] = (tokens if is_empty else tokens - 1, now)
            if len(self._buckets) > _MOST_CALLERS:
                self._buckets.popitem(last=False)
        if is_empty:
            raise TooManyRequests(rate, (1 - tokens) * rate.seconds / rate.number)
