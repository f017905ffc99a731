"""How many threads the products of small matrices get."""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_WORTH_SHARING = 50_000_000
"""Multiplications in one product from which a second thread saves more than it costs."""


@contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """Give NumPy's and SciPy's products one thread, unless each is as large as this.

    Threads that wait for each other thousands of times cost more than they save, and results do
    not depend on the number of cores. Holds for the process, so it is for training stages and
    not for the service.
    """
    if multiplications >= _WORTH_SHARING:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield
