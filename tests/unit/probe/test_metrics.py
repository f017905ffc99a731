import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss

from dncbm.errors import InvalidInput
from dncbm.probe import metrics
from dncbm.probe.model import Probe
from tests.oracles import probe as oracle


@pytest.fixture
def scored(rng):
    logits = rng.standard_normal((200, 4)) * 3
    labels = np.where(rng.random(200) < 0.6, logits.argmax(axis=1), rng.integers(0, 4, 200))
    return logits, labels


def test_scores_match_scikit_learn(scored):
    logits, labels = scored
    guess = logits.argmax(axis=1)
    assert metrics.accuracy(logits, labels) == (guess == labels).mean()
    assert metrics.balanced_accuracy(logits, labels) == pytest.approx(
        balanced_accuracy_score(labels, guess)
    )
    np.testing.assert_array_equal(
        metrics.confusion(logits, labels), confusion_matrix(labels, guess)
    )
    assert metrics.cross_entropy(logits, labels) == pytest.approx(
        log_loss(labels, metrics.softmax(logits))
    )


def test_a_class_without_rows_has_no_accuracy():
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    found = metrics.per_class_accuracy(logits, np.array([0, 0]))
    assert found[0] == 0.5
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_matches_the_bins(scored, bins):
    logits, labels = scored
    probabilities = metrics.softmax(logits)
    found = metrics.calibration_error(probabilities, labels, bins)
    assert found == pytest.approx(oracle.calibration_error(probabilities, labels, bins))


def test_a_confidence_on_an_edge_counts_to_the_lower_bin():
    probabilities = np.array([[0.5, 0.5], [0.75, 0.25], [0.8, 0.2]])
    labels = np.array([0, 1, 0])
    found = metrics.calibration_error(probabilities, labels, bins=4)
    assert found == pytest.approx((0.5 + 0.75 + 0.2) / 3)
    assert found == pytest.approx(oracle.calibration_error(probabilities, labels, 4))


def test_certain_and_right_has_no_calibration_error():
    assert metrics.calibration_error(np.eye(3), np.arange(3)) == 0.0


def test_temperature_undoes_overconfidence(rng):
    true_logits = rng.standard_normal((4000, 3)) * 2
    labels = (true_logits + rng.gumbel(size=(4000, 3))).argmax(axis=1)
    assert metrics.fit_temperature(5.0 * true_logits, labels) == pytest.approx(5.0, rel=0.08)
    best = metrics.fit_temperature(true_logits, labels)
    for other in (0.9 * best, 1.1 * best):
        assert metrics.cross_entropy(true_logits / best, labels) < metrics.cross_entropy(
            true_logits / other, labels
        )


@pytest.mark.parametrize("rows", [1, 6, 40])
def test_temperature_minimises_the_smoothed_cross_entropy(rng, rows):
    logits = rng.standard_normal((rows, 4)) * 3
    labels = np.where(rng.random(rows) < 0.8, logits.argmax(axis=1), rng.integers(0, 4, rows))
    best = metrics.fit_temperature(logits, labels)
    least = oracle.smoothed_cross_entropy(logits, labels, best)
    for other in np.exp(np.linspace(-4, 4, 81)):
        assert least <= oracle.smoothed_cross_entropy(logits, labels, other) + 1e-9


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_a_few_rows_that_are_all_right_do_not_make_the_probe_certain(size):
    logits = size * np.eye(3)[np.arange(6) % 3]
    best = metrics.fit_temperature(logits, np.arange(6) % 3)
    assert metrics.softmax(logits / best).max() == pytest.approx(7 / 8, abs=1e-3)


def make_probe(rng, c=25):
    weights = torch.from_numpy(rng.standard_normal((3, c))).float()
    return Probe(weights, torch.zeros(3), ("a", "b", "c"))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99, 1.0])
def test_contributing_concepts_match_the_count_one_by_one(rng, share):
    probe, codes = make_probe(rng), rng.random((30, 25)) * (rng.random((30, 25)) < 0.4)
    predicted = metrics.probe_logits(probe, codes).argmax(axis=1)
    weights = probe.weights.double().numpy()
    truth = [
        oracle.concepts_for_share(row * weights[label], share)
        for row, label in zip(codes, predicted, strict=True)
    ]
    found = metrics.concepts_per_decision(probe, codes, (share,))[:, 0]
    assert found.tolist() == truth
    assert metrics.contributing_concepts(probe, codes, share) == pytest.approx(np.mean(truth))


def test_stored_codes_alone_give_the_same_counts(rng):
    probe, codes = make_probe(rng), rng.random((700, 25)) * (rng.random((700, 25)) < 0.2)
    codes[3] = 0.0
    np.testing.assert_array_equal(
        metrics.concepts_per_decision(probe, sp.csr_matrix(codes)),
        metrics.concepts_per_decision(probe, codes),
    )


def test_a_decision_without_contribution_rests_on_no_concept(rng):
    assert (
        metrics.concepts_per_decision(make_probe(rng), np.zeros((2, 25))).tolist() == [[0] * 3] * 2
    )


def test_sparse_and_dense_codes_score_alike(rng):
    probe, codes = make_probe(rng), rng.random((30, 25)) * (rng.random((30, 25)) < 0.4)
    np.testing.assert_allclose(
        metrics.probe_logits(probe, sp.csr_matrix(codes)),
        probe.logits(torch.from_numpy(codes)).numpy(),
    )


def test_codes_of_another_width_are_refused(rng):
    with pytest.raises(InvalidInput, match="24 concepts, the probe reads 25"):
        metrics.probe_logits(make_probe(rng), np.ones((2, 24)))


@pytest.mark.parametrize("sparse", [False, True])
def test_class_means_are_centred_on_the_mean_of_all_rows(rng, sparse):
    codes, labels = rng.random((20, 6)) * (rng.random((20, 6)) < 0.5), np.arange(20) % 3
    found = metrics.class_mean_codes(sp.csr_matrix(codes) if sparse else codes, labels, 4)
    for label in range(3):
        truth = codes[labels == label].mean(axis=0) - codes.mean(axis=0)
        np.testing.assert_allclose(found[label], truth, atol=1e-12)
    assert not found[3].any()
    top = metrics.top_class_concepts(codes, labels, 3, top=2)
    assert top[1].concepts.tolist() == np.argsort(-found[1])[:2].tolist()
    assert top[1].values[0] == pytest.approx(found[1].max())
