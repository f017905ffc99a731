import logging

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from dncbm.probe.loss import Design, kkt_violations, unscale
from dncbm.probe.newton import Newton
from dncbm.probe.solvers import (
    ElasticNet,
    SolverOptions,
    null_solution,
    objective,
    solve_elastic_net,
)
from tests.oracles import probe as oracle
from tests.unit.probe.conftest import make_codes

EXACT = SolverOptions(tolerance=1e-8, max_iterations=50_000)


def make_design(n, c=40, *, sparse=False, **kwargs):
    codes, labels = make_codes(n, c=c, **kwargs)
    matrix = codes.astype(np.float64)
    return Design.build(sp.csr_array(matrix) if sparse else matrix, labels, 3), matrix, labels


def sklearn_fit(x, y, penalty, l1_ratio):
    model = LogisticRegression(
        solver="saga", C=1 / (penalty * len(y)), l1_ratio=l1_ratio, tol=1e-12, max_iter=100_000
    )
    return model.fit(x, y)


@pytest.mark.parametrize(("penalty", "l1_ratio"), [(0.05, 0.9), (0.01, 0.5), (0.02, 0.99)])
@pytest.mark.parametrize("sparse", [False, True])
def test_elastic_net_finds_the_solution_of_saga(penalty, l1_ratio, sparse):
    design, codes, labels = make_design(90, c=15, sparse=sparse, active=4)
    found = solve_elastic_net(design, null_solution(design), penalty, l1_ratio, EXACT)
    scaled = codes / design.scale
    other = sklearn_fit(scaled, labels, penalty, l1_ratio)
    np.testing.assert_allclose(found.weights.T, other.coef_, atol=1e-6)
    _, bias = unscale(design, found.weights, found.bias)
    ours, theirs = (
        oracle.elastic_net_objective(scaled, labels, w, b, penalty, l1_ratio)
        for w, b in ((found.weights, bias), (other.coef_.T, other.intercept_))
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert found.objective == pytest.approx(ours, abs=1e-12)
    assert 0 < np.count_nonzero(found.weights) < found.weights.size
    assert (found.weights == 0).sum() == (np.abs(other.coef_) < 1e-9).sum()


def test_solution_meets_the_kkt_conditions_over_all_concepts():
    design, _, _ = make_design(120)
    found = solve_elastic_net(design, null_solution(design), 0.03, 0.99, EXACT)
    gradient, by_bias = design.gradient(found.weights, found.bias)
    assert kkt_violations(found.weights, gradient, 0.03, 0.99).max() <= 1e-8 * 0.03
    assert np.abs(by_bias).max() <= 1e-8 * 0.03
    assert found.converged


def test_warm_start_and_screening_do_not_change_the_solution():
    design, _, _ = make_design(120)
    last = null_solution(design)
    for penalty in (0.15, 0.1, 0.06, 0.03):
        last = solve_elastic_net(design, last, penalty, 0.9, EXACT)
    cold = solve_elastic_net(design, null_solution(design), 0.03, 0.9, EXACT)
    np.testing.assert_allclose(last.weights, cold.weights, atol=1e-7)


def test_a_wide_jump_of_penalty_is_caught_by_the_check_over_all_concepts():
    design, _, _ = make_design(120)
    highest = design.max_penalty(0.99)
    first = solve_elastic_net(design, null_solution(design), 1.001 * highest, 0.99, EXACT)
    assert np.count_nonzero(first.weights) == 0
    # The strong rule assumes small steps; the check over all concepts makes up for a large one.
    second = solve_elastic_net(design, first, 0.7 * highest, 0.99, EXACT)
    assert second.violation <= 1e-8 * 0.7 * highest


def test_a_wide_jump_of_penalty_does_not_put_all_concepts_to_work(monkeypatch):
    design, _, _ = make_design(240)
    net = ElasticNet(design, 0.99, SolverOptions())
    start = net.solve(null_solution(design), 0.9 * design.max_penalty(0.99))
    seen, real = [], Newton.descend

    def descend(fit, used, *args, **options):
        seen.append(sum(len(columns) for columns in used))
        return real(fit, used, *args, **options)

    monkeypatch.setattr(Newton, "descend", descend)
    found = net.solve(start, 0.4 * design.max_penalty(0.99))
    assert np.count_nonzero(found.weights) <= seen[0] < 0.7 * design.num_columns * 3


def test_a_fit_that_goes_on_from_stored_weights_ends_the_same():
    design, _, _ = make_design(120)
    net, last, kept = ElasticNet(design, 0.9, SolverOptions()), null_solution(design), []
    for penalty in (0.15, 0.1, 0.06):
        last = net.solve(last, penalty)
        kept.append(last)
    resumed = ElasticNet(design, 0.9, SolverOptions()).solve(kept[1], 0.06)
    np.testing.assert_array_equal(resumed.weights, kept[2].weights)
    np.testing.assert_array_equal(resumed.bias, kept[2].bias)


def test_loose_fits_in_float32_reach_the_optimum_of_float64():
    design, _, _ = make_design(120)
    loose = solve_elastic_net(design, null_solution(design), 0.03, 0.99, SolverOptions())
    exact = solve_elastic_net(design, null_solution(design), 0.03, 0.99, EXACT)
    at = objective(design, loose.weights, loose.bias, 0.03, 0.99)
    assert exact.objective <= at <= exact.objective * (1 + 1e-5)
    assert loose.objective == pytest.approx(at, rel=1e-6)


def test_an_unfinished_fit_says_so(caplog):
    design, _, _ = make_design(90, c=15, active=4)
    options = SolverOptions(tolerance=1e-8, max_iterations=2)
    with caplog.at_level(logging.WARNING):
        found = solve_elastic_net(design, null_solution(design), 0.01, 0.99, options)
    assert not found.converged
    assert "stopped after 2 steps" in caplog.text
