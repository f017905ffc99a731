import numpy as np
import pytest
import scipy.sparse as sp

from dncbm.probe import matrix as matrix_module
from dncbm.probe.loss import (
    Design,
    kkt_violations,
    penalty_value,
    unscale,
)
from dncbm.probe.matrix import code_matrix
from tests.oracles import probe as oracle
from tests.unit.probe.conftest import make_codes


def make_design(*, sparse, balanced=False):
    codes, labels = make_codes(24, c=6, k=3, active=2)
    labels = np.where(labels == 2, np.arange(24) % 2, labels)
    labels[:5] = 2
    matrix = sp.csr_array(codes.astype(np.float64)) if sparse else codes.astype(np.float64)
    return Design.build(matrix, labels, 3, balanced=balanced), codes, labels


@pytest.fixture
def point(rng):
    return rng.standard_normal((6, 3)), rng.standard_normal(3)


@pytest.mark.parametrize("sparse", [False, True])
def test_objective_matches_the_loop(sparse, point):
    design, codes, labels = make_design(sparse=sparse)
    weights, bias = point
    value = design.loss(design.logits(weights, bias)) + penalty_value(weights, 0.3, 0.7)
    _, raw_bias = unscale(design, weights, bias)
    truth = oracle.elastic_net_objective(codes / design.scale, labels, weights, raw_bias, 0.3, 0.7)
    assert value == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_gradient_matches_differences(sparse, balanced, point):
    design, _, _ = make_design(sparse=sparse, balanced=balanced)
    weights, bias = point
    by_weight, by_bias = design.gradient(weights, bias)
    numeric = oracle.numeric_gradient(lambda w: design.loss(design.logits(w, bias)), weights)
    np.testing.assert_allclose(by_weight, numeric, atol=1e-8)
    numeric = oracle.numeric_gradient(lambda b: design.loss(design.logits(weights, b)), bias)
    np.testing.assert_allclose(by_bias, numeric, atol=1e-8)


def test_loss_and_slopes_agree_with_loss(point):
    design, _, _ = make_design(sparse=True, balanced=True)
    logits = design.logits(*point)
    assert design.loss_and_slopes(logits)[0] == pytest.approx(design.loss(logits), rel=1e-13)


def test_balanced_weighs_classes_equally():
    design, _, labels = make_design(sparse=False, balanced=True)
    totals = np.bincount(labels, design.example_weights)
    np.testing.assert_allclose(totals, 24 / 3)


def test_exported_weights_give_the_same_logits_on_raw_codes(point):
    design, codes, _ = make_design(sparse=True)
    weights, bias = unscale(design, *point)
    np.testing.assert_allclose(codes @ weights.T + bias, design.logits(*point), atol=1e-12)


def test_kkt_is_zero_inside_the_subdifferential_only():
    weights = np.array([[0.0, 0.0, 2.0, -1.0]])
    gradient = np.array([[0.4, -0.9, -0.5 - 0.5 * 2.0, 0.5 + 0.5 * 1.0]])
    found = kkt_violations(weights, gradient, 1.0, 0.5)
    np.testing.assert_allclose(found, [[0.0, 0.4, 0.0, 0.0]], atol=1e-12)


def test_above_the_largest_penalty_zero_is_optimal_and_below_not():
    design, _, _ = make_design(sparse=False)
    zeros = np.zeros((6, 3))
    gradient = design.gradient(zeros, design.null_bias())[0]
    highest = design.max_penalty(0.9)
    assert kkt_violations(zeros, gradient, highest * 1.001, 0.9).max() == 0.0
    assert kkt_violations(zeros, gradient, highest * 0.999, 0.9).max() > 0.0


@pytest.mark.parametrize("classes", [3, 70])
def test_loss_of_few_and_of_many_classes(rng, classes):
    x, labels = rng.random((20, 2)), rng.integers(0, classes, 20)
    design = Design.build(x, labels, classes)
    weights, bias = rng.standard_normal((2, classes)), rng.standard_normal(classes)
    _, raw_bias = unscale(design, weights, bias)
    truth = oracle.elastic_net_objective(x / design.scale, labels, weights, raw_bias, 0.0, 0.5)
    logits = design.logits(weights, bias)
    assert design.loss(logits) == pytest.approx(truth, rel=1e-12)
    assert design.loss_and_slopes(logits)[0] == pytest.approx(truth, rel=1e-12)


def test_one_scale_is_the_same_problem_in_other_units(point):
    design, _, _ = make_design(sparse=True)
    raw, (weights, bias) = design.one_scale(), point
    assert len(set(raw.scale)) == 1
    assert raw.scale[0] == pytest.approx(np.sqrt((design.scale**2).mean()))
    rescaled = weights * (raw.scale / design.scale)[:, None]
    np.testing.assert_allclose(raw.logits(rescaled, bias), design.logits(weights, bias), atol=1e-12)


@pytest.mark.parametrize("share", [0.02, 0.5])
@pytest.mark.parametrize("sparse", [False, True])
def test_products_with_few_and_with_many_weights_are_the_same(rng, sparse, share, monkeypatch):
    monkeypatch.setattr(matrix_module, "_BLOCK_ROWS", 7)
    codes = rng.random((24, 50)) * (rng.random((24, 50)) < 0.1)
    weights = rng.standard_normal((50, 3)) * (rng.random((50, 3)) < share)
    found = matrix_module.times(sp.csr_array(codes) if sparse else codes, weights)
    np.testing.assert_allclose(found, codes @ weights, atol=1e-12)


def test_constant_codes_keep_a_positive_unit_of_variance():
    design = Design.build(np.full((4, 3), 0.1), np.array([0, 1, 0, 1]), 2)
    assert design.total_variance() == 1e-12


def test_total_variance_is_that_of_the_scaled_codes():
    design, codes, _ = make_design(sparse=True)
    assert design.total_variance() == pytest.approx((codes / design.scale).var(axis=0).sum())


def test_a_dead_concept_keeps_scale_one():
    matrix = code_matrix(np.array([[0.0, 1.0], [0.0, 3.0]]))
    assert Design.build(matrix, np.array([0, 1]), 2).scale.tolist() == [1.0, 5.0**0.5]
