import numpy as np
import pytest

from dncbm.errors import InvalidInput
from dncbm.probe.loss import Design
from dncbm.probe.metrics import probe_logits
from dncbm.probe.solvers import null_solution
from dncbm.probe.truncation import largest_weights, to_probe
from tests.oracles import probe as oracle


@pytest.mark.parametrize("nec", [1, 3, 50])
def test_largest_weights_match_the_ranking(rng, nec):
    weights = rng.standard_normal((12, 4)).round(1)
    np.testing.assert_array_equal(
        largest_weights(weights, nec), oracle.largest_per_class(weights, nec)
    )


def test_global_scope_keeps_the_number_on_average(rng):
    weights = rng.standard_normal((12, 4)) * np.array([10.0, 1.0, 1.0, 1.0])
    keep = largest_weights(weights, 3, "global")
    assert keep.sum() == 12
    assert keep[:, 0].sum() > 3
    assert np.abs(weights[keep]).min() >= np.abs(weights[~keep]).max()


def test_zeros_are_never_kept():
    weights = np.array([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]])
    assert largest_weights(weights, 3).sum() == 3


def test_less_than_one_concept_is_refused():
    with pytest.raises(InvalidInput, match="nec must be >= 1, got 0"):
        largest_weights(np.ones((3, 2)), 0)


def test_exported_heads_read_the_codes_as_they_come(rng):
    codes, labels = rng.random((12, 4)), np.arange(12) % 3
    design = Design.build(codes, labels, 3)
    solution = null_solution(design).with_weights(rng.standard_normal((4, 3)))
    probe = to_probe(design, solution, ("ant", "bee", "cat"))
    np.testing.assert_allclose(
        probe_logits(probe, codes), design.logits(solution.weights, solution.bias), atol=1e-5
    )
