"""Which networks stay: against comparing every two."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dncbm.errors import InvalidInput
from dncbm.guidance.selection import BIN_WIDTH, best_above, pareto_front
from tests.oracles import guidance_metrics as oracle

values = st.one_of(st.floats(0, 1), st.integers(0, 40).map(lambda n: n / 400), st.just(np.nan))


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 3).flatmap(
        lambda m: st.lists(st.lists(values, min_size=m, max_size=m), min_size=1, max_size=12)
    ),
    st.sampled_from([0.0, BIN_WIDTH, 0.1]),
)
def test_fronts_equal_the_oracle(points: list[list[float]], width: float) -> None:
    assert pareto_front(points, width) == oracle.pareto_front(points, width)
    assert pareto_front(np.array(points), width) == pareto_front(points, width)


def test_small_differences_do_not_count_and_equals_all_stay() -> None:
    points = [[0.700, 0.500], [0.701, 0.499], [0.690, 0.520], [0.690, 0.499]]
    assert pareto_front(points) == [0, 1, 2]
    assert pareto_front([[0.7, 0.5], [0.71, 0.5]]) == [1]


def test_what_was_not_measured_neither_stays_nor_dominates() -> None:
    assert pareto_front([[1.0, np.nan], [0.1, 0.1]]) == [1]
    assert pareto_front([[np.nan]]) == []
    assert pareto_front([]) == []


def test_fronts_of_what_is_no_table() -> None:
    with pytest.raises(InvalidInput, match="bins that are not negative"):
        pareto_front([[1.0]], -1.0)
    with pytest.raises(InvalidInput, match="Points of shape"):
        pareto_front([[], []])


def test_the_best_explanations_at_a_floor_of_accuracy() -> None:
    points = np.array([[0.80, 0.5], [0.796, 0.7], [0.70, 0.9], [0.81, np.nan], [0.799, 0.7]])
    assert best_above(points, by=1, column=0, floor=0.795) == 1
    assert best_above(points, by=1, column=0, floor=0.0) == 2
    assert best_above(points, by=1, column=0, floor=0.805) is None
