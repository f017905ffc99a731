"""How the C library of this process keeps memory that was freed."""

import ctypes
import sys
from typing import Any

_M_ARENA_MAX = -8
"""Of mallopt(3)."""
_MOST_ARENAS = 2


def limit_arenas() -> bool:
    """Keep the heap of all threads in two arenas, where the C library is glibc; whether it is.

    By default there are eight per core. What a request's thread frees stays in its arena, and
    tensors of a few megabytes each, allocated now by one thread and now by another, fill all of
    them with holes: memory grows for hours. Holds for threads that begin later.
    """
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, _MOST_ARENAS))


def give_back() -> bool:
    """Return free pages of the heap to the system; whether there were any.

    Takes some milliseconds, in which threads wait that allocate.
    """
    malloc_trim = _of_glibc("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(0))


def _of_glibc(name: str) -> Any:
    """A function of the C library, or None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
