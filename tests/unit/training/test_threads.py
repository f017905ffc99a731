import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from dncbm.training.threads import threads_for


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(("multiplications", "threads"), [(1000, 1), (10**9, 2)])
def test_small_products_get_one_thread(multiplications: int, threads: int) -> None:
    assert np.ones((2, 2)).dot(np.ones((2, 2))).sum() == 8  # the library is loaded
    with threadpool_limits(2, user_api="blas"):
        with threads_for(multiplications):
            assert max(blas_threads()) == threads
        assert max(blas_threads()) == 2
