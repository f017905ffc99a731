"""Random directions as a control, and the calibration error over bins of equal mass."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dncbm.probe.control import control_accuracy, random_directions, strongest
from dncbm.probe.metrics import equal_mass_error
from dncbm.probe.train import ProbeConfig, train_probe
from tests.oracles.curation import equal_mass_error as slow_error

CONFIG = ProbeConfig(necs=(3,), path_points=10)


@given(
    arrays(np.float64, (23, 3), elements=st.floats(0.01, 1.0)),
    arrays(np.int64, 23, elements=st.integers(0, 2)),
    st.sampled_from([1, 4, 15, 40]),
)
def test_the_error_is_that_of_the_slow_version(values, labels, bins) -> None:
    probabilities = values / values.sum(axis=1, keepdims=True)
    found = equal_mass_error(probabilities, labels, bins)
    assert found == pytest.approx(slow_error(probabilities, labels, bins), abs=1e-12)
    order = np.random.default_rng(0).permutation(23)
    assert equal_mass_error(probabilities[order], labels[order], bins) == pytest.approx(found)


def test_honest_probabilities_have_no_error() -> None:
    probabilities = np.tile([0.75, 0.25], (400, 1))
    labels = np.tile([0, 0, 0, 1], 100)
    assert equal_mass_error(probabilities, labels, bins=1) == 0.0
    assert equal_mass_error(probabilities, 1 - labels, bins=1) == 0.5


def test_directions_are_unit_and_those_of_the_seed() -> None:
    made = random_directions(20, 7, seed=3)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(20))
    assert torch.equal(made, random_directions(20, 7, seed=3))
    assert not torch.equal(made, random_directions(20, 7, seed=4))


def test_codes_are_as_sparse_as_asked_and_the_largest() -> None:
    activations = torch.tensor([[3.0, -1.0, 2.0, 5.0], [-1.0, -2.0, 1.0, -3.0], [1.0, 2, 3, 4]])
    found = strongest(activations, np.array([2, 3, 0])).toarray()
    assert found.tolist() == [[3, 0, 0, 5], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_the_control_of_the_concepts_themselves_is_the_probe(world) -> None:
    """The same codes, solver and regularisation must give what was measured already."""
    codes, labels, classes = world
    trained = train_probe(codes, labels, classes, CONFIG)
    chosen = {"dense": trained.metrics["chosen"]["dense"]["from"]}
    found = control_accuracy(codes, labels, classes, CONFIG, chosen)
    for split in ("validation", "test"):
        assert found[split]["dense"] == pytest.approx(
            trained.metrics["accuracy"][split]["dense"], abs=0.04
        )


def test_every_kind_of_fit_has_a_control(world) -> None:
    codes, labels, classes = world
    for chosen in ("ridge-scaled-02", "ridge-raw-01-polished", "path-005"):
        found = control_accuracy(codes, labels, classes, CONFIG, {"dense": chosen, "nec3": chosen})
        assert found["test"]["dense"] > 0.5
        assert found["test"]["nec3"] > 0.4
    assert control_accuracy(codes, labels, classes, CONFIG, {"dense": "adam"})["test"] == {}


def test_training_tells_how_honest_its_probabilities_are(world) -> None:
    codes, labels, classes = world
    trained = train_probe(codes, labels, classes, CONFIG)
    found = trained.metrics["calibration"]
    assert (found["bins"], found["binning"]) == (15, "equal mass")
    assert found["heads"].keys() == {"dense", "nec3"}
    dense = found["heads"]["dense"]
    assert dense["temperature"] == trained.temperatures["dense"]
    assert dense["validation"]["images"] == len(labels["validation"])
    assert 0 <= dense["test"]["ece"] <= 1
