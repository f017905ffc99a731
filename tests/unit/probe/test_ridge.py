import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from dncbm.probe import precondition
from dncbm.probe.loss import Design
from dncbm.probe.precondition import coordinates, covariance
from dncbm.probe.ridge import refit, solve_ridge
from dncbm.probe.solvers import SolverOptions, null_solution
from tests.oracles import probe as oracle
from tests.unit.probe.conftest import make_codes

EXACT = SolverOptions(tolerance=1e-6, max_iterations=5000)


@pytest.fixture(params=[False, True], ids=["dense", "sparse"])
def design(request):
    codes, labels = make_codes(90, c=15, active=4)
    matrix = codes.astype(np.float64)
    return Design.build(sp.csr_array(matrix) if request.param else matrix, labels, 3)


@pytest.fixture
def mask(rng):
    return rng.random((15, 3)) < 0.3


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else matrix


@pytest.mark.parametrize("scaling", ["scaled", "raw"])
def test_ridge_finds_the_solution_of_lbfgs(design, scaling):
    design = design if scaling == "scaled" else design.one_scale()
    found = solve_ridge(design, null_solution(design), 0.01, EXACT)
    other = LogisticRegression(C=1 / (0.01 * 90), tol=1e-10, max_iter=5000)
    other.fit(dense(design.matrix) / design.scale, design.labels)
    np.testing.assert_allclose(found.weights.T, other.coef_, atol=1e-4)


def test_masked_weights_stay_zero_and_the_others_are_optimal(design, mask):
    found = refit(design, mask, 0.01, EXACT)
    assert (found.weights[~mask] == 0).all()
    by_weight, by_bias = design.gradient(found.weights, found.bias)
    slopes = (by_weight + 0.01 * found.weights)[mask]
    assert np.abs(slopes).max() <= 1e-3 * 0.01
    assert max(np.abs(slopes).max(), np.abs(by_bias).max()) <= found.violation <= 1e-3 * 0.01
    assert found.converged


@pytest.mark.parametrize("spectrum", [True, False])
def test_round_coordinates_are_a_change_of_variables(design, spectrum, rng, monkeypatch):
    monkeypatch.setattr(precondition, "_MAX_SPECTRUM", 10**6 if spectrum else 0)
    inside = coordinates(design, 0.01)
    weights, table = rng.standard_normal((15, 3)), rng.standard_normal((15, 3))
    variables = inside.enter(weights)
    np.testing.assert_allclose(inside.leave(variables), weights, atol=1e-12)
    # The chain rule: a slope along the weights is the same along the variables.
    along = float((table * weights).sum())
    assert inside.pull(table) @ variables == pytest.approx(along)


def test_covariance_matches_the_loop(design):
    truth = oracle.covariance(dense(design.matrix) / design.scale)
    np.testing.assert_allclose(covariance(design), truth, atol=1e-12)


def test_the_spectrum_makes_the_problem_round(design):
    inside = coordinates(design, 0.01)
    curvature = precondition.class_curvature(design)
    for unit in np.eye(45)[::7]:
        weights = inside.leave(unit)
        curved = covariance(design) @ weights * curvature + 0.01 * weights
        np.testing.assert_allclose(inside.pull(curved), unit, atol=1e-9)


def test_a_warm_start_changes_the_cost_and_not_the_result(design, mask):
    cold = refit(design, mask, 0.01, EXACT)
    near = refit(design, mask, 0.02, EXACT)
    warm = refit(design, mask, 0.01, EXACT, start=near)
    np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-4)
    assert warm.iterations < cold.iterations
    assert refit(design, mask, 0.01, EXACT, start=cold).iterations <= 1


def test_single_precision_is_enough_for_the_usual_tolerance(mask):
    codes, labels = make_codes(90, c=15, active=4)
    single = Design.build(sp.csr_array(codes), labels, 3)
    double = Design.build(sp.csr_array(codes.astype(np.float64)), labels, 3)
    a, b = (refit(d, mask, 0.01, SolverOptions()).weights for d in (single, double))
    np.testing.assert_allclose(a, b, atol=5e-3)


def test_alike_concepts_do_no_harm(mask):
    codes, labels = make_codes(90, c=15, active=4)
    codes[:, 1] = codes[:, 0]
    found = refit(Design.build(codes, labels, 3), np.ones((15, 3), bool), 1e-9, SolverOptions())
    np.testing.assert_allclose(found.weights[0], found.weights[1], atol=1e-3)


def test_refit_lowers_the_training_loss(design):
    keep = np.zeros((15, 3), dtype=bool)
    keep[:5] = True
    found = refit(design, keep, 1e-3, SolverOptions())
    assert (found.weights[5:] == 0).all()
    assert design.loss(design.logits(found.weights, found.bias)) < np.log(3)


def test_nothing_kept_leaves_the_class_shares(design):
    assert not refit(design, np.zeros((15, 3), dtype=bool), 1e-3, SolverOptions()).weights.any()
