"""Worst group, F1 and average precision against counting one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from dncbm.errors import InvalidInput
from dncbm.guidance.metrics import (
    decisions,
    group_accuracy,
    macro_f1,
    mean_average_precision,
    micro_f1,
    worst_group,
)  # fmt: skip
from tests.oracles import guidance_metrics as oracle


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b", "c", None])), min_size=1))
def test_groups_equal_the_oracle(rows: list[tuple[bool, str | None]]) -> None:
    right, groups = np.array([r for r, _ in rows]), [g for _, g in rows]
    expected = oracle.group_accuracy(right, groups)
    if not expected:
        with pytest.raises(InvalidInput, match="No photo has a group"):
            group_accuracy(right, groups)
        return
    found = group_accuracy(right, groups)
    assert dict(found.accuracy) == pytest.approx(expected)
    assert found.worst == worst_group(right, groups) == pytest.approx(min(expected.values()))
    assert found.accuracy[found.worst_group] == found.worst
    assert found.mean == pytest.approx(np.mean(list(expected.values())))
    told = [bool(r) for r, g in rows if g is not None]
    assert found.overall == pytest.approx(np.mean(told))
    assert sum(row["images"] for row in found.table()) == len(told)


def test_groups_may_be_numbers() -> None:
    right = np.array([True, False, True, True])
    found = group_accuracy(right, np.array([2, 2, 0, -1]))
    assert dict(found.accuracy) == {"0": 1.0, "2": 0.5}
    with pytest.raises(InvalidInput, match="4 decisions but 1 groups"):
        worst_group(right, ["a"])


@st.composite
def decided(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits with ties, zeros among them, and what is there."""
    n, k = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    logits = draw(st.lists(st.integers(-2, 2), min_size=n * k, max_size=n * k))
    truth = draw(st.lists(st.booleans(), min_size=n * k, max_size=n * k))
    return np.array(logits, float).reshape(n, k) / 2, np.array(truth).reshape(n, k)


@settings(deadline=None, max_examples=60)
@given(decided())
def test_several_labels_equal_the_oracle(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, truth = case
    assert micro_f1(logits, truth) == pytest.approx(oracle.f1(logits, truth) or 0.0)
    assert macro_f1(logits, truth) == pytest.approx(oracle.macro_f1(logits, truth))
    shown = [k for k in range(truth.shape[1]) if truth[:, k].any()]
    found = mean_average_precision(logits, truth)
    if not shown:
        assert np.isnan(found)
        return
    each = [oracle.average_precision(logits[:, k], truth[:, k]) for k in shown]
    assert found == pytest.approx(np.mean(each))


def test_parity_with_scikit_learn(rng: np.random.Generator) -> None:
    logits, truth = rng.normal(size=(50, 6)).round(1), rng.random((50, 6)) < 0.3
    named = logits > 0
    assert micro_f1(logits, truth) == pytest.approx(f1_score(truth, named, average="micro"))
    assert macro_f1(logits, truth) == pytest.approx(f1_score(truth, named, average="macro"))
    expected = average_precision_score(truth, logits, average="macro")
    assert mean_average_precision(logits, truth) == pytest.approx(expected)


def test_decisions_for_one_and_for_several_labels(rng: np.random.Generator) -> None:
    logits, truth = rng.normal(size=(9, 3)), np.eye(3, dtype=bool)[rng.integers(0, 3, 9)]
    found = decisions(torch.from_numpy(logits), torch.from_numpy(truth), multiple=False)
    assert found == {"accuracy": float((logits.argmax(1) == truth.argmax(1)).mean())}
    several = decisions(torch.from_numpy(logits).float(), torch.from_numpy(truth), multiple=True)
    assert several["f1"] == pytest.approx(micro_f1(logits, truth))
    assert set(several) == {"f1", "macro_f1", "map"}


def test_what_cannot_be_measured_is_told() -> None:
    with pytest.raises(InvalidInput, match=r"shape \(2, 2\), the truth \(2, 1\)"):
        micro_f1(np.zeros((2, 2)), np.zeros((2, 1), bool))
    with pytest.raises(InvalidInput, match="1 of 4 logits are NaN"):
        macro_f1(np.array([[0, 1], [np.nan, 2]]), np.zeros((2, 2), bool))
