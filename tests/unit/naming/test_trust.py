import numpy as np
import pytest
import scipy.sparse as sp
import torch

from dncbm.naming.assign import name_dictionary
from dncbm.naming.config import NamingConfig
from dncbm.naming.trust import (
    Labelled,
    class_owners,
    clopper_pearson,
    names_class,
    precision_at_coverage,
    reject,
)
from tests.oracles.naming import binomial_tail
from tests.unit.naming.conftest import make_vocabulary


def test_owners_by_hand() -> None:
    codes = np.zeros((30, 4))
    labels = np.array([0] * 20 + [1] * 10)
    codes[:20, 0] = 1.0  # class 0 alone
    codes[:, 1] = 1.0  # both alike
    codes[:6, 2], codes[20:26, 2] = 1.0, 1.0  # 6 of 20 against 6 of 10: two thirds of the mass
    codes[:4, 3] = 1.0  # four images say too little
    assert class_owners(sp.csr_matrix(codes), labels).tolist() == [0, -1, 1, -1]
    assert class_owners(sp.csr_matrix(codes), np.zeros(30, dtype=int)).tolist() == [-1] * 4
    labels[20:] = -1
    assert class_owners(sp.csr_matrix(codes), labels).tolist() == [-1] * 4


def test_a_word_means_the_class_that_is_nearest_and_near() -> None:
    classes = torch.eye(3)
    words = torch.tensor([[0.9, 0.4, 0.0], [0.4, 0.3, 0.3], [0.0, 0.9, 0.1]])
    words = words / words.norm(dim=1, keepdim=True)
    far = torch.tensor([[0.3, 0.0, 0.0, 1.0]])
    assert names_class(words, classes, np.array([0, 1, 0])).tolist() == [True, False, False]
    assert names_class(far, torch.eye(4)[:3], np.array([0])).tolist() == [False]


@pytest.mark.parametrize(("hits", "total"), [(0, 8), (3, 8), (8, 8), (40, 50)])
def test_interval_agrees_with_the_binomial_sums(hits: int, total: int) -> None:
    low, high = clopper_pearson(hits, total)
    if hits:
        assert binomial_tail(hits, total, low) == pytest.approx(0.025)
    if hits < total:
        assert 1 - binomial_tail(hits + 1, total, high) == pytest.approx(0.025)
    assert (low == 0.0, high == 1.0) == (hits == 0, hits == total)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_precision_at_coverage_by_hand() -> None:
    right = np.array([True, False, True, True])
    found = precision_at_coverage(np.array([0.9, 0.5, 0.8, 0.1]), right, (0.25, 0.5, 0.75, 1.0))
    assert found == [[0.25, 1.0], [0.5, 1.0], [0.75, pytest.approx(2 / 3)], [1.0, 0.75]]


def planted(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Evidence whose first column tells how likely a name is right."""
    chance = rng.uniform(0.05, 0.95, size=count)
    evidence = np.column_stack([chance + rng.normal(size=count) * 0.05, rng.normal(size=count)])
    return evidence, rng.random(count) < chance


def test_rejection_reaches_the_target_on_concepts_that_it_did_not_see(
    rng: np.random.Generator,
) -> None:
    evidence, right = planted(rng, 4000)
    judged = np.arange(4000) < 2000
    found = reject(evidence, right, judged, target=0.8)
    fresh = ~judged & found.passed
    assert right[fresh].mean() == pytest.approx(0.8, abs=0.04)
    low, high = found.metrics["interval"]
    assert low <= found.metrics["precision"] <= high
    assert found.metrics["precision"] == pytest.approx(right[fresh].mean(), abs=0.05)
    assert found.metrics["kept"] == pytest.approx(fresh[2000:].mean(), abs=0.05)
    curve = dict(map(tuple, found.metrics["at_coverage"]))
    assert curve[0.1] > curve[0.5] > curve[1.0]


def test_nothing_passes_a_target_that_nothing_reaches(rng: np.random.Generator) -> None:
    evidence = rng.normal(size=(60, 2))
    found = reject(evidence, np.zeros(60, dtype=bool), np.ones(60, dtype=bool), target=0.5)
    assert not found.passed.any()
    assert found.metrics["precision"] is None
    assert found.metrics["interval"] == [0.0, 1.0]


def test_few_judged_concepts_reject_nothing(rng: np.random.Generator) -> None:
    judged = np.arange(60) < 10
    found = reject(rng.normal(size=(60, 2)), np.zeros(60, dtype=bool), judged, target=0.9)
    assert found.passed.all()
    assert found.metrics == {"judged": 10}


def test_without_a_target_it_only_measures(rng: np.random.Generator) -> None:
    evidence, right = planted(rng, 200)
    found = reject(evidence, right, np.ones(200, dtype=bool), target=None)
    assert found.passed.all()
    assert found.metrics["precision"] == pytest.approx(right.mean())


def test_labels_reject_names_that_promise_too_little(rng: np.random.Generator) -> None:
    # 40 concepts lie on their class name, 40 stand for a class and lie nearer to another word
    words = rng.normal(size=(60, 16))
    vocabulary = make_vocabulary([f"word {i}" for i in range(60)], words)
    near = vocabulary.embeddings[:40] + 0.02 * torch.from_numpy(rng.normal(size=(40, 16))).float()
    wrong = vocabulary.embeddings[20:60] + 0.4 * torch.from_numpy(rng.normal(size=(40, 16))).float()
    owners = np.concatenate([np.arange(40), np.arange(40)])
    labelled = Labelled(owners, vocabulary.embeddings[:40])
    rows = torch.cat([near, wrong])
    config = NamingConfig(false_name_rate=None, back_off=0.0, target_precision=0.9)
    found = name_dictionary(rows, vocabulary, config=config, labelled=labelled)
    named = np.array([name.status == "named" for name in found.names])
    assert named[:40].all()
    assert named[40:].mean() < 0.2
    assert found.trust["judged"] == 80
    assert found.trust["precision"] > 0.85
    plain = name_dictionary(rows, vocabulary, config=config)
    assert {name.status for name in plain.names} == {"named"}
    assert plain.trust == {}
