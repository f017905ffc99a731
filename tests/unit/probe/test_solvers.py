import logging

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from dncbm.errors import InvalidInput, UnknownName
from dncbm.probe.loss import Design, kkt_violations
from dncbm.probe.solvers import (
    SolverOptions,
    fit_elastic_net,
    null_solution,
    solve_elastic_net,
    solve_ridge,
)
from tests.oracles import probe as oracle
from tests.unit.probe.conftest import make_codes

EXACT = SolverOptions(tolerance=1e-8, max_iterations=50_000)
NAMES = ("ant", "bee", "cat")


def sklearn_fit(x, y, penalty, l1_ratio):
    model = LogisticRegression(
        solver="saga", C=1 / (penalty * len(y)), l1_ratio=l1_ratio, tol=1e-12, max_iter=100_000
    )
    return model.fit(x, y)


@pytest.mark.parametrize(("penalty", "l1_ratio"), [(0.05, 0.9), (0.01, 0.5), (0.02, 0.99)])
@pytest.mark.parametrize("sparse", [False, True])
def test_elastic_net_finds_the_solution_of_saga(penalty, l1_ratio, sparse):
    codes, labels = make_codes(90, c=15, active=4)
    fit = fit_elastic_net(
        sp.csr_matrix(codes) if sparse else codes,
        labels,
        NAMES,
        penalty=penalty,
        l1_ratio=l1_ratio,
        options=EXACT,
    )
    scaled = codes.astype(np.float64) / fit.scale
    other = sklearn_fit(scaled, labels, penalty, l1_ratio)
    np.testing.assert_allclose(fit.weights * fit.scale, other.coef_, atol=1e-6)
    ours, theirs = (
        oracle.elastic_net_objective(scaled, labels, w.T, b, penalty, l1_ratio)
        for w, b in (
            (fit.weights * fit.scale, fit.bias),
            (other.coef_, other.intercept_),
        )
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert fit.solution.objective == pytest.approx(ours, abs=1e-12)
    assert 0 < np.count_nonzero(fit.weights) < fit.weights.size
    assert (fit.weights == 0).sum() == (np.abs(other.coef_) < 1e-9).sum()


def test_solution_meets_the_kkt_conditions_over_all_concepts():
    codes, labels = make_codes(120, c=40)
    fit = fit_elastic_net(codes, labels, NAMES, penalty=0.03, options=EXACT)
    design = Design.build(codes.astype(np.float64), labels, 3)
    gradient, by_bias = design.gradient(fit.solution.weights, fit.solution.bias)
    violations = kkt_violations(fit.solution.weights, gradient, 0.03, 0.99)
    assert violations.max() <= 1e-8 * 0.03
    assert np.abs(by_bias).max() <= 1e-8 * 0.03
    assert fit.solution.converged


def test_warm_start_and_screening_do_not_change_the_solution():
    codes, labels = make_codes(120, c=40)
    design = Design.build(codes.astype(np.float64), labels, 3)
    last = null_solution(design)
    for penalty in (0.15, 0.1, 0.06, 0.03):
        last = solve_elastic_net(design, last, penalty, 0.9, EXACT)
    cold = solve_elastic_net(design, null_solution(design), 0.03, 0.9, EXACT)
    np.testing.assert_allclose(last.weights, cold.weights, atol=1e-7)


def test_a_wide_jump_of_penalty_is_caught_by_the_check_over_all_concepts():
    codes, labels = make_codes(120, c=40)
    design = Design.build(codes.astype(np.float64), labels, 3)
    highest = design.max_penalty(0.99)
    first = solve_elastic_net(design, null_solution(design), 1.001 * highest, 0.99, EXACT)
    assert np.count_nonzero(first.weights) == 0
    # The strong rule assumes small steps; the check over all concepts makes up for a large one.
    second = solve_elastic_net(design, first, 0.7 * highest, 0.99, EXACT)
    assert second.violation <= 1e-8 * 0.7 * highest


def test_ridge_finds_the_solution_of_lbfgs(rng):
    codes, labels = make_codes(90, c=15, active=4)
    design = Design.build(codes.astype(np.float64), labels, 3)
    options = SolverOptions(tolerance=1e-6, max_iterations=5000)
    found = solve_ridge(design, null_solution(design), 0.01, options)
    other = LogisticRegression(C=1 / (0.01 * 90), tol=1e-10, max_iter=5000)
    other.fit(codes / design.scale, labels)
    np.testing.assert_allclose(found.weights.T, other.coef_, atol=1e-4)


def test_ridge_holds_masked_weights_at_zero(rng):
    codes, labels = make_codes(90, c=15, active=4)
    design = Design.build(codes.astype(np.float64), labels, 3)
    mask = rng.random((15, 3)) < 0.3
    found = solve_ridge(design, null_solution(design), 0.01, SolverOptions(), mask=mask)
    assert (found.weights[~mask] == 0).all()
    gradient = design.gradient(found.weights, found.bias)[0] + 0.01 * found.weights
    assert np.abs(gradient[mask]).max() <= 1e-2 * 0.01


def test_an_unfinished_fit_says_so(caplog):
    codes, labels = make_codes(90, c=15, active=4)
    options = SolverOptions(tolerance=1e-8, max_iterations=2)
    with caplog.at_level(logging.WARNING):
        fit = fit_elastic_net(codes, labels, NAMES, penalty=0.01, options=options)
    assert not fit.solution.converged
    assert "stopped after 2 steps" in caplog.text


def test_names_serve_as_labels():
    codes, labels = make_codes(60, c=15, active=4)
    by_name = fit_elastic_net(codes, [NAMES[i] for i in labels], NAMES, penalty=0.05)
    by_index = fit_elastic_net(codes, labels, NAMES, penalty=0.05)
    assert (by_name.weights == by_index.weights).all()


@pytest.mark.parametrize(("penalty", "l1_ratio"), [(-1.0, 0.5), (0.1, 1.5)])
def test_impossible_penalties_are_refused(penalty, l1_ratio):
    with pytest.raises(InvalidInput, match="penalty must be >= 0 and l1_ratio"):
        fit_elastic_net(np.eye(3), [0, 1, 2], NAMES, penalty=penalty, l1_ratio=l1_ratio)


def test_an_unknown_class_is_refused():
    with pytest.raises(UnknownName, match="Unknown class 'dog'"):
        fit_elastic_net(np.eye(3), ["ant", "bee", "dog"], NAMES, penalty=0.1)
