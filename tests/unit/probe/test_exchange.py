from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from dncbm.probe.exchange import exchanged, swapped, usefulness
from dncbm.probe.loss import Design
from dncbm.probe.ridge import refit
from dncbm.probe.solvers import SolverOptions, null_solution
from tests.oracles import probe as oracle
from tests.unit.probe.conftest import make_codes

OPTIONS = SolverOptions(tolerance=1e-4)


@pytest.fixture
def design():
    codes, labels = make_codes(120, c=20, active=5)
    return Design.build(sp.csr_array(codes.astype(np.float64)), labels, 3)


def test_usefulness_matches_the_loop(design, rng):
    weights = rng.standard_normal((20, 3)) * (rng.random((20, 3)) < 0.3)
    at = replace(null_solution(design), weights=weights, bias=rng.standard_normal(3), penalty=0.01)
    scaled = design.matrix.toarray() / design.scale
    truth = oracle.usefulness(scaled - design.shift, design.labels, weights, at.bias, 0.01)
    np.testing.assert_allclose(usefulness(design, at), truth, rtol=1e-9, atol=1e-15)


def test_the_least_useful_gives_way_to_the_most_useful():
    keep = np.array([[True], [True], [False], [False]])
    worth = np.array([[1.0], [4.0], [3.0], [8.0]])
    once = swapped(keep, worth, 1.0, "class")
    assert once[:, 0].tolist() == [False, True, False, True]
    assert (swapped(keep, worth, 10.0, "class") == keep).all()


def test_global_exchange_moves_weights_between_classes():
    keep = np.array([[True, False], [True, False]])
    worth = np.array([[0.1, 5.0], [6.0, 0.2]])
    assert swapped(keep, worth, 1.0, "global").tolist() == [[False, True], [True, False]]
    assert (swapped(keep, worth, 1.0, "class") == keep).all()


@pytest.mark.parametrize("scope", ["class", "global"])
def test_a_bad_choice_of_concepts_is_repaired(design, scope):
    def fit(keep, start):
        return refit(design, keep, 1e-3, OPTIONS, start=start)

    wide = fit(np.ones((20, 3), dtype=bool), null_solution(design))
    poor = np.zeros((20, 3), dtype=bool)  # the smallest weights instead of the largest
    np.put_along_axis(poor, np.argsort(np.abs(wide.weights), axis=0)[:3], values=True, axis=0)
    start = fit(poor, null_solution(design))
    found = exchanged(design, start, fit, scope)
    assert found.objective < 0.9 * start.objective
    assert np.count_nonzero(found.weights) == 9
    if scope == "class":
        assert (np.count_nonzero(found.weights, axis=0) == 3).all()


def test_without_anything_to_gain_nothing_changes(design):
    def fit(keep, start):
        return refit(design, keep, 1e-3, OPTIONS, start=start)

    keep = np.ones((20, 3), dtype=bool)
    start = fit(keep, null_solution(design))
    assert exchanged(design, start, fit, "class") is start
