import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.naming.quality import (
    calibrated_threshold,
    naming_metrics,
    near_duplicates,
    null_directions,
)
from dncbm.naming.words import WordRows
from dncbm.types import ConceptName, ConceptStatus
from tests.oracles.naming import cosines, false_name_threshold, moments


def unit(rows: np.ndarray) -> torch.Tensor:
    values = torch.from_numpy(rows).float()
    return values / values.norm(dim=1, keepdim=True)


def concept(index: int, name: str, status: ConceptStatus = "named", group: int = 0) -> ConceptName:
    return ConceptName(
        concept=index, name=name, score=0.1 * (index + 1), margin=0.02, alternatives=(),
        status=status, group=group,
    )  # fmt: skip


def test_null_directions_have_the_moments_of_the_dictionary(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(30, 3)) @ np.diag([3.0, 1.0, 0.2]) + np.array([8.0, 1.0, 0.0])
    rows = rows.astype(np.float32)
    # Undo the scaling to unit length: the first coordinate is far from 0 and fixes it.
    null = null_directions(torch.from_numpy(rows), 40_000, seed=0).double().numpy()
    assert np.allclose(np.linalg.norm(null, axis=1), 1.0, atol=1e-5)
    mean, covariance = moments(rows.astype(np.float64))
    draws = np.random.default_rng(1).multivariate_normal(mean, covariance, 40_000)
    draws /= np.linalg.norm(draws, axis=1, keepdims=True)
    np.testing.assert_allclose(null.mean(axis=0), draws.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(np.cov(null.T), np.cov(draws.T), atol=0.01)


def test_null_directions_repeat_with_the_seed(rng: np.random.Generator) -> None:
    rows = unit(rng.normal(size=(10, 4)))
    assert torch.equal(null_directions(rows, 50, seed=3), null_directions(rows, 50, seed=3))
    assert not torch.equal(null_directions(rows, 50, seed=3), null_directions(rows, 50, seed=4))


def test_threshold_agrees_with_the_oracle(rng: np.random.Generator) -> None:
    rows, words = unit(rng.normal(size=(20, 5))), unit(rng.normal(size=(30, 5)))
    for rate in (0.01, 0.05, 0.5):
        found = calibrated_threshold(rows, WordRows(words), false_name_rate=rate, count=211, seed=7)
        null = null_directions(rows, 211, seed=7).numpy()
        assert found == pytest.approx(false_name_threshold(null, words.numpy(), rate), abs=1e-6)


def test_threshold_lets_the_stated_share_of_fresh_nonsense_pass(rng: np.random.Generator) -> None:
    rows, words = unit(rng.normal(size=(60, 8))), unit(rng.normal(size=(50, 8)))
    threshold = calibrated_threshold(rows, WordRows(words), false_name_rate=0.1, count=3000)
    fresh = null_directions(rows, 3000, seed=99).numpy()
    passed = np.mean([max(cosines(row, words.numpy())) >= threshold for row in fresh[:600]])
    assert passed == pytest.approx(0.1, abs=0.04)


def test_threshold_refuses_a_rate_out_of_range(rng: np.random.Generator) -> None:
    rows = unit(rng.normal(size=(5, 3)))
    with pytest.raises(InvalidInput, match=r"false_name_rate is 1.0; it must lie between"):
        calibrated_threshold(rows, WordRows(rows), false_name_rate=1.0)


def test_near_duplicates_across_blocks(rng: np.random.Generator) -> None:
    words = unit(rng.normal(size=(2100, 24)))
    words[2050] = words[3]
    words[2099] = words[2098] + 0.01 * words[0]
    words = words / words.norm(dim=1, keepdim=True)
    pairs = near_duplicates(words)
    assert [pair[:2] for pair in pairs] == [(3, 2050), (2098, 2099)]
    assert pairs[0][2] == pytest.approx(1.0, abs=1e-6)


def test_metrics_by_hand() -> None:
    names = [
        concept(0, "dog", group=0), concept(1, "cat", group=1), concept(2, "dog", group=0),
        concept(3, "concept 3", "unnamed", 3), concept(4, "concept 4", "blocked", 4),
    ]  # fmt: skip
    metrics = naming_metrics(names, density=np.array([0.5, 0.2, 0.2, 0.2, 0.5]))
    assert metrics["num_concepts"] == 5
    assert metrics["named_fraction"] == pytest.approx(0.6)
    assert metrics["unnamed_fraction"] == metrics["blocked_fraction"] == pytest.approx(0.2)
    assert metrics["unique_names"] == metrics["unique_groups"] == 2
    assert metrics["grouped_fraction"] == pytest.approx(2 / 3)
    assert metrics["shared_fraction"] == pytest.approx(2 / 3)
    assert metrics["mean_score"] == pytest.approx(0.3)
    assert metrics["mean_named_score"] == pytest.approx(0.2)
    assert metrics["mean_margin"] == pytest.approx(0.02)
    assert metrics["weighted_score"] == pytest.approx(
        np.average([name.score for name in names], weights=[0.5, 0.2, 0.2, 0.2, 0.5])
    )
    living = naming_metrics(names, density=np.array([0.5, 0.0, 0.2, 0.0, 0.0]))
    assert (living["num_concepts"], living["named_fraction"]) == (5, 1.0)
    assert living["unique_names"] == 1
    assert living["mean_score"] == pytest.approx((names[0].score + names[2].score) / 2)


def test_metrics_without_names_or_concepts() -> None:
    metrics = naming_metrics([concept(0, "concept 0", "unnamed")], density=np.zeros(1))
    assert metrics["named_fraction"] == metrics["mean_named_score"] == 0.0
    assert "weighted_score" not in metrics
    with pytest.raises(InvalidInput, match="no concepts to measure"):
        naming_metrics([])
