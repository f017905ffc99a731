import numpy as np
import pytest
import scipy.sparse as sp

from dncbm.probe import classwise, newton
from dncbm.probe.classwise import Block, ClassLogits, Columns
from dncbm.probe.loss import Design, penalty_value, unscale
from dncbm.probe.newton import Net, Newton
from tests.oracles import probe as oracle
from tests.unit.probe.conftest import make_codes

N, C, K = 30, 8, 3


@pytest.fixture(params=["dense", "sparse", "few"])
def design(request, monkeypatch):
    """Dense codes, and sparse ones multiplied as dense columns and by pairs of non-zeros."""
    if request.param == "few":
        monkeypatch.setattr(classwise, "_PAIRS_BELOW", 1.1)
    codes, labels = make_codes(N, c=C, k=K, active=3)
    matrix = codes.astype(np.float64)
    return Design.build(matrix if request.param == "dense" else sp.csr_array(matrix), labels, K)


@pytest.fixture
def point(rng):
    return rng.standard_normal((C, K)), rng.standard_normal(K)


def scaled(design):
    codes = design.matrix.toarray() if sp.issparse(design.matrix) else design.matrix
    return codes / design.scale


def loaded(design, point):
    logits = ClassLogits(Columns.of(design, "float64"))
    logits.load(*point)
    return logits


def test_loss_and_gradient_are_those_of_the_design(design, point):
    logits = loaded(design, point)
    assert logits.loss() == pytest.approx(design.loss(design.logits(*point)), rel=1e-12)
    for found, truth in zip(logits.gradient(), design.gradient(*point), strict=True):
        np.testing.assert_allclose(found, truth, atol=1e-12)


def test_gradient_of_some_classes_at_a_time(design, point, monkeypatch):
    monkeypatch.setattr(classwise, "_CLASSES_AT_ONCE", 2)
    np.testing.assert_allclose(
        loaded(design, point).gradient()[0], design.gradient(*point)[0], atol=1e-12
    )


@pytest.mark.parametrize("k", range(K))
def test_curvature_of_a_class_matches_the_loop(design, point, k):
    weights, bias = unscale(design, *point)
    truth = oracle.class_hessian(scaled(design), weights.T * design.scale[:, None], bias, k)
    block = Block(Columns.of(design, "float64"), np.arange(C))
    curvature = loaded(design, point).slopes(k)[1]
    np.testing.assert_allclose(block.curvature(curvature), truth[:C, :C], atol=1e-12)
    np.testing.assert_allclose(block.pull(curvature), truth[C, :C], atol=1e-12)
    assert curvature.sum() == pytest.approx(truth[C, C])


def test_a_move_tells_the_change_of_the_loss(design, point, rng):
    logits, (weights, bias) = loaded(design, point), point
    block = Block(Columns.of(design, "float64"), np.array([1, 4]))
    step = rng.standard_normal(2)
    moved = logits.moved(2, block.move(step))
    there = weights.copy()
    there[[1, 4], 2] += step
    shifted = bias + np.eye(K)[2] * (block.shift @ step)
    truth = design.loss(design.logits(there, shifted)) - design.loss(design.logits(weights, bias))
    assert moved.change == pytest.approx(truth, abs=1e-12)
    logits.accept(2, moved)
    np.testing.assert_allclose(logits.gradient()[0], design.gradient(there, shifted)[0], atol=1e-12)


@pytest.mark.parametrize("l1_ratio", [0.0, 0.7, 1.0])
def test_minimiser_of_the_model_matches_the_search(rng, l1_ratio):
    root = rng.standard_normal((5, 3))
    table, slope, weights = root.T @ root, rng.standard_normal(3), rng.standard_normal(3)
    net = Net(0.8, l1_ratio)
    found = weights
    for _ in range(20):  # each call makes a few rounds
        found = newton._minimiser(table, slope + table @ (found - weights), found, net, 0.0)
    truth = oracle.quadratic_net_by_search(table, slope, weights, net.l1, net.l2)
    np.testing.assert_allclose(found, truth, atol=1e-6)


@pytest.mark.parametrize("l1_ratio", [0.0, 0.9])
def test_every_round_lowers_the_objective(design, point, l1_ratio):
    net = Net(0.05, l1_ratio)
    fit = Newton(Columns.of(design, "float64"), 5.0 * point[0], point[1])
    used = [np.arange(C)] * K
    values = [fit.objective(net)]
    for _ in range(6):
        fit.descend(used, net, 0.0, sweeps=1)
        values.append(fit.objective(net))
    assert (np.diff(values) < 1e-12).all()
    truth = design.loss(design.logits(fit.weights, fit.bias)) + penalty_value(
        fit.weights, 0.05, l1_ratio
    )
    assert values[-1] == pytest.approx(truth, rel=1e-12)


def test_columns_that_are_not_kept_change_nothing(design, point, monkeypatch):
    used, net, found = [np.arange(C)] * K, Net(0.05, 0.9), []
    for kept in (newton._KEPT_NUMBERS, 0):
        monkeypatch.setattr(newton, "_KEPT_NUMBERS", kept)
        fit = Newton(Columns.of(design, "float64"), *point)
        fit.descend(used, net, 1e-9, sweeps=50)
        found.append(fit.weights)
    np.testing.assert_array_equal(*found)


def test_a_start_far_away_neither_overflows_nor_cancels(design):
    for dtype in ("float32", "float64"):
        columns = Columns.of(design, dtype)
        fit = Newton(columns, np.full((C, K), 1.0) * [300.0, 0.0, -300.0], np.zeros(K))
        ended = fit.descend([np.arange(C)] * K, Net(0.1, 0.9), 1e-3, sweeps=500)
        assert ended.violation <= 1e-3


def test_extrapolation_finds_the_end_of_a_linear_sequence(rng):
    root, end = rng.standard_normal((3, 3)), rng.standard_normal(3)
    shrink = 0.9 * root @ root.T / np.linalg.norm(root @ root.T, 2)
    trail = [end + rng.standard_normal(3)]
    for _ in range(5):
        trail.append(end + shrink @ (trail[-1] - end))
    assert np.abs(trail[-1] - end).max() > 0.1
    np.testing.assert_allclose(newton.extrapolated(trail), end, atol=1e-3)


def test_a_leap_that_would_raise_the_objective_is_taken_back(design, point):
    net, used = Net(0.05, 0.9), [np.arange(C)] * K
    fit = Newton(Columns.of(design, "float64"), *point)
    fit.descend(used, net, 1e-9, sweeps=100)
    best, weights = fit.objective(net), fit.weights.copy()
    places = newton._places(used)
    here = fit._at(places)
    far = [here + step for step in (8.0, 4.0, 2.5, 1.5, 0.5)]
    assert not fit._leap([*far, here], places, net) or fit.objective(net) < best
    assert fit.objective(net) <= best
    np.testing.assert_allclose(fit.weights, weights, atol=1e-6)
