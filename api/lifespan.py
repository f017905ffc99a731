"""What happens when the service starts and ends."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api.allocator import give_back

_LIGHT_THREADS = 24
"""For lists and pages, which answer also while every call that may run or wait does."""
_EVERY = 60.0
"""Seconds after which free memory is given back again."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Give every admitted call a thread; at the end run what `on_shutdown` noted."""
    options = app.state.service.options
    to_thread.current_default_thread_limiter().total_tokens = (
        options.concurrency + options.waiting + _LIGHT_THREADS
    )
    app.openapi()  # asked for by the page and by every query, and takes a while to make
    # Models and libraries stay for good: collections that visit them all stop every thread.
    gc.collect()
    gc.freeze()
    keeping = asyncio.create_task(_keep_small())
    yield
    keeping.cancel()
    gc.unfreeze()
    for close in getattr(app.state, "on_shutdown", []):
        await run_in_threadpool(close)


async def _keep_small() -> None:
    while True:
        await asyncio.sleep(_EVERY)
        await run_in_threadpool(give_back)
