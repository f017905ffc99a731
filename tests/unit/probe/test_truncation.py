import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.probe.loss import Design
from dncbm.probe.model import Probe
from dncbm.probe.solvers import SolverOptions
from dncbm.probe.truncation import largest_weights, refit, truncate_to_nec
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


def dense_probe(c):
    draw = torch.Generator().manual_seed(1)
    return Probe(torch.randn(3, c, generator=draw), torch.zeros(3), ("ant", "bee", "cat"))


@pytest.mark.parametrize("refit_weights", [False, True])
def test_truncated_probe_has_at_most_nec_concepts_per_class(world, refit_weights):
    codes, labels, _ = world
    probe = truncate_to_nec(
        dense_probe(40), 4, codes["train"], labels["train"], refit_weights=refit_weights
    )
    assert ((probe.weights != 0).sum(dim=1) <= 4).all()
    assert probe.effective_concepts() == 4.0


def test_concepts_are_ranked_by_weight_times_scale(world):
    codes, labels, classes = world
    scale = np.sqrt((codes["train"].astype(np.float64) ** 2).mean(axis=0))
    probe = truncate_to_nec(
        dense_probe(40), 1, codes["train"], labels["train"], refit_weights=False
    )
    expected = (dense_probe(40).weights.abs().numpy() * scale).argmax(axis=1)
    assert probe.weights.abs().argmax(dim=1).tolist() == expected.tolist()


def test_refit_lowers_the_training_loss(world):
    codes, labels, _ = world
    design = Design.build(codes["train"].astype(np.float64), labels["train"], 3)
    keep = np.zeros((40, 3), dtype=bool)
    keep[:5] = True
    found = refit(design, keep, 1e-3, SolverOptions())
    assert (found.weights[5:] == 0).all()
    assert design.loss(design.logits(found.weights, found.bias)) < np.log(3)


def test_nothing_kept_leaves_the_class_shares(world):
    codes, labels, _ = world
    design = Design.build(codes["train"].astype(np.float64), labels["train"], 3)
    found = refit(design, np.zeros((40, 3), dtype=bool), 1e-3, SolverOptions())
    assert not found.weights.any()


def test_less_than_one_concept_is_refused(world):
    codes, labels, _ = world
    with pytest.raises(InvalidInput, match="nec must be >= 1, got 0"):
        truncate_to_nec(dense_probe(40), 0, codes["train"], labels["train"])
