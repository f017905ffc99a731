"""Which step of the forward path runs, told to whoever listens in this context.

The service times the steps and traces them; without a listener a step costs a look at a variable.
A listener belongs to the context (thread or task) that set it, so that several may live side by
side; a thread of one's own gets it by `contextvars.copy_context` or by `listening` again.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Listener = Callable[[str, int], AbstractContextManager[object]]
"""Called as `listener(stage, images)`; what it returns is entered for as long as the step runs."""

_listener: ContextVar[Listener | None] = ContextVar("dncbm_stages", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of every step that this context runs in the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def stage(name: str, images: int) -> AbstractContextManager[object]:
    """To be entered around the step `name` (decode, encode, codes, explain) on so many images."""
    listener = _listener.get()
    return nullcontext() if listener is None else listener(name, images)
