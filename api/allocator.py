"""How the C library of this process keeps memory that was freed."""

import ctypes
import sys

_M_ARENA_MAX = -8
"""Of mallopt(3)."""
_MOST_ARENAS = 2


def limit_arenas() -> bool:
    """Keep the heap of all threads in two arenas, where the C library is glibc; whether it is.

    By default there are eight per core. What a request's thread frees stays in its arena, and
    tensors of a few megabytes each, allocated now by one thread and now by another, fill all of
    them with holes: memory grows for hours. Holds for threads that begin later.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has no arenas
        return False
    return bool(mallopt(_M_ARENA_MAX, _MOST_ARENAS))
