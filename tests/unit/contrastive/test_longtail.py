"""Long tails, heads and tails, few shots: counts by hand and what is refused."""

import logging

import numpy as np
import pytest

from dncbm.contrastive.clusters import cluster_sizes, sizes_of
from dncbm.contrastive.longtail import (
    exponential_counts,
    exponential_rows,
    few_shot_rows,
    head_mid_tail,
)
from dncbm.errors import InvalidInput


def test_counts_are_the_papers() -> None:
    """CIFAR10-LT at an imbalance of 100, as Cao et al. 2019 list it."""
    wanted = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert exponential_counts(10, 5000, 0.01) == wanted
    assert exponential_counts(5, 8, 0.001) == [8, 1, 1, 1, 1]
    assert exponential_counts(3, 7, 1.0) == [7, 7, 7]


def test_rows_have_these_counts_in_an_order_of_the_seed() -> None:
    labels = np.repeat(np.arange(6), 50)
    labels[3] = -1
    rows = exponential_rows(labels, 0.1, seed=1)
    counts = np.bincount(labels[rows], minlength=6)
    assert sorted(counts.tolist(), reverse=True) == exponential_counts(6, 49, 0.1)
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == exponential_rows(labels, 0.1, seed=1).tolist()
    orders = {tuple(np.bincount(labels[exponential_rows(labels, 0.1, seed=s)])) for s in range(8)}
    assert len(orders) > 4
    assert len(exponential_rows(labels, 1.0, seed=0, largest=5)) == 30


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5, 100.0, float("nan")])
def test_a_ratio_is_a_share(ratio: float) -> None:
    with pytest.raises(InvalidInput, match="rule is in"):
        exponential_counts(10, 100, ratio)


def test_long_tails_need_classes_and_photos() -> None:
    with pytest.raises(InvalidInput, match="Write 0.01 for"):
        exponential_counts(10, 100, 100.0)
    with pytest.raises(InvalidInput, match="at least 2 classes"):
        exponential_rows(np.zeros(5, dtype=int), 0.1, seed=0)
    with pytest.raises(InvalidInput, match="at least 2 classes"):
        exponential_rows(np.full(5, -1), 0.1, seed=0)
    with pytest.raises(InvalidInput, match="asks for"):
        exponential_rows(np.array([0, 0, 1, 1]), 1.0, seed=0, largest=3)


def test_head_and_tail_are_thirds_or_bounds() -> None:
    counts = [5, 100, 20, 70, 1, 9, 30]
    assert head_mid_tail(counts).tolist() == [2, 0, 1, 0, 2, 1, 1]
    assert head_mid_tail(counts, (10, 50)).tolist() == [2, 0, 1, 0, 2, 2, 1]
    assert head_mid_tail([3, 3, 3]).tolist() == [0, 1, 2]
    assert head_mid_tail([3, 4]).tolist() == [1, 1]
    with pytest.raises(InvalidInput, match="low before high"):
        head_mid_tail(counts, (50, 10))


def test_few_shots_are_balanced(caplog: pytest.LogCaptureFixture) -> None:
    labels = np.array([0] * 9 + [1] * 4 + [2] * 6 + [-1] * 5)
    rows = few_shot_rows(labels, seed=0)
    assert np.bincount(labels[rows]).tolist() == [4, 4, 4]
    assert np.bincount(labels[few_shot_rows(labels, seed=0, shots=2)]).tolist() == [2, 2, 2]
    assert rows.tolist() == few_shot_rows(labels, seed=0).tolist()
    assert rows.tolist() != few_shot_rows(labels, seed=1).tolist()
    with pytest.raises(InvalidInput, match=r"class 1 has 4\."):
        few_shot_rows(labels, seed=0, shots=5)
    with pytest.raises(InvalidInput, match="no labels"):
        few_shot_rows(np.full(3, -1), seed=0)
    with caplog.at_level(logging.WARNING):
        assert len(few_shot_rows(np.array([0, 0, 1]), seed=0)) == 2
    assert "one-shot" in caplog.text


def test_cluster_sizes_are_those_of_like_rows() -> None:
    draw = np.random.default_rng(0)
    centres = np.eye(3, 8)
    group = np.repeat([0, 1, 2], [30, 10, 4])
    rows = centres[group] * draw.uniform(1, 5, (44, 1)) + 0.01 * draw.normal(size=(44, 8))
    order = draw.permutation(44)
    found = cluster_sizes(rows[order], 3, seed=0)
    assert found.tolist() == np.array([30, 10, 4])[group][order].tolist()
    assert sizes_of(np.array([5, 5, -1, 5])).tolist() == [3, 3, 1, 3]
    for bad in (0, 45):
        with pytest.raises(InvalidInput, match="clusters of 44"):
            cluster_sizes(rows, bad)
