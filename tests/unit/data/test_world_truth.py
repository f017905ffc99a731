from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from dncbm.data.concept_world import write_concept_world
from dncbm.data.world_truth import correlations, read_truth, score_world
from dncbm.errors import InvalidInput
from tests.oracles import world_truth as oracle


def test_correlations_and_matching_agree_with_their_definitions(rng) -> None:
    presence = rng.random((50, 3)) < 0.4
    codes = np.maximum(rng.normal(size=(50, 5)), 0)
    codes[:, 4] = 0.0
    matrix = correlations(csr_matrix(codes), presence)
    for t in range(3):
        for c in range(5):
            expected = oracle.correlation(presence[:, t].astype(float), codes[:, c])
            assert matrix[t, c] == pytest.approx(expected, abs=1e-12)
    score = score_world(csr_matrix(codes), presence, "abc", [["x"]] * 5)
    assert score.mean_correlation == pytest.approx(oracle.best_matching(matrix))


def test_perfect_codes_with_perfect_names_score_one() -> None:
    presence = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=bool)
    codes = csr_matrix(presence[:, ::-1] * 2.0)
    score = score_world(codes, presence, ("sun", "sea"), [["sea", "x"], ["y", "sun"]])
    assert score.mean_correlation == pytest.approx(1.0)
    assert score.recovered_fraction == 1.0
    assert score.naming_top1 == 0.5
    assert score.naming_top5 == 1.0


def test_true_concepts_without_a_partner_count_as_not_found(rng) -> None:
    presence = rng.random((60, 5)) < 0.4
    codes = csr_matrix(presence[:, :2] * 1.0)
    score = score_world(codes, presence, "abcde", [["a", "x"], ["", "b"]])
    matrix = correlations(codes, presence)
    assert score.mean_correlation == pytest.approx(oracle.best_matching(matrix))
    assert score.recovered_fraction == pytest.approx(2 / 5)
    assert (score.naming_top1, score.naming_top5) == pytest.approx((1 / 5, 2 / 5))


def test_the_truth_of_a_world_is_read_back(tmp_path: Path) -> None:
    write_concept_world(tmp_path / "w", num_images=12, size=32, seed=0)
    truth = read_truth(tmp_path / "w")
    assert truth.presence.shape == (12, len(truth.concepts))
    assert truth.presence.any(axis=1).all()
    assert all((tmp_path / "w" / path).is_file() for path in truth.paths)
    with pytest.raises(InvalidInput, match="is not a concept world"):
        read_truth(tmp_path)
