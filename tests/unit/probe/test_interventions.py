import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.probe.interventions import without
from dncbm.probe.model import Probe
from tests.oracles import probe as oracle

GONE = [0, 3, 4]


@pytest.fixture
def probe(rng):
    weights = torch.from_numpy(rng.standard_normal((3, 6)))
    return Probe(weights, torch.from_numpy(rng.standard_normal(3)), ("a", "b", "c"))


@pytest.mark.parametrize("at_mean", [False, True])
def test_a_removed_concept_adds_nothing_or_its_average(probe, rng, at_mean):
    codes = torch.from_numpy(rng.random((8, 6)))
    means = codes.mean(dim=0) if at_mean else None
    found = without(probe, GONE, means=means).logits(codes)
    instead = codes.mean(dim=0).tolist() if at_mean else [0.0] * 6
    truth = oracle.logits_without(codes.numpy(), probe.weights.numpy(), probe.bias, GONE, instead)
    np.testing.assert_allclose(found.numpy(), truth, atol=1e-12)


def test_removal_at_the_means_leaves_the_average_logit(probe, rng):
    codes = torch.from_numpy(rng.random((50, 6)))
    changed = without(probe, GONE, means=codes.mean(dim=0))
    np.testing.assert_allclose(
        changed.logits(codes).mean(dim=0), probe.logits(codes).mean(dim=0), atol=1e-12
    )


def test_the_probe_itself_stays_as_it_is_and_order_does_not_matter(probe):
    before = probe.weights.clone()
    assert torch.equal(without(probe, [3, 0, 3, 4]).weights, without(probe, GONE).weights)
    assert torch.equal(without(probe, []).weights, before)
    assert torch.equal(probe.weights, before)


@pytest.mark.parametrize("concept", [-1, 6])
def test_a_concept_that_does_not_exist_is_refused(probe, concept):
    with pytest.raises(InvalidInput, match=f"Concept {concept} .*0 to 5"):
        without(probe, [0, concept])


def test_means_of_another_width_are_refused(probe):
    with pytest.raises(InvalidInput, match=r"\(5,\).*6"):
        without(probe, [0], means=torch.zeros(5))
