import itertools

import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.sae import geometry
from dncbm.sae.geometry import coherence, nearest_cosine, stability
from tests.oracles import sae_metrics as oracle


@pytest.mark.parametrize("tile", [1, 3, 2048])
def test_coherence_equals_every_pair(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(geometry, "_TILE", tile)
    dictionary = torch.randn(8, 4, dtype=torch.float64)
    expected = oracle.coherence(dictionary.numpy())
    assert coherence(dictionary) == pytest.approx(expected, rel=1e-12)


def test_coherence_of_known_dictionaries() -> None:
    assert coherence(torch.eye(5)) == (0.0, 0.0)
    assert coherence(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx((1.0, 1.0))
    assert coherence(torch.ones(1, 3)) == (0.0, 0.0)


@pytest.mark.parametrize("tile", [2, 2048])
def test_nearest_cosine_equals_the_loop(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(geometry, "_TILE", tile)
    found, wanted = torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    expected = oracle.nearest_cosine(found.numpy(), wanted.numpy())
    assert nearest_cosine(found, wanted) == pytest.approx(expected, rel=1e-12)


def test_stability_equals_every_permutation() -> None:
    runs = [torch.randn(6, 4) for _ in range(3)]
    found = stability(runs)
    arrays = [run.numpy().astype(np.float64) for run in runs]
    pairs = list(itertools.combinations(arrays, 2))
    matched = [oracle.matched_cosine(*pair) for pair in pairs]
    assert found.seeds == 3
    assert found.matched_cosine == pytest.approx(np.mean(matched), rel=1e-5)
    assert found.matched_cosine_lowest == pytest.approx(min(matched), rel=1e-5)
    nearest = [oracle.nearest_cosine(a, b) for a, b in itertools.permutations(arrays, 2)]
    assert found.nearest_cosine == pytest.approx(np.mean(nearest), rel=1e-5)


def test_order_sign_and_length() -> None:
    first = torch.nn.functional.normalize(torch.randn(40, 16), dim=-1)
    same = stability([first, 3 * first[torch.randperm(40)], first.flip(0)])
    assert same.matched_cosine == pytest.approx(1.0, abs=1e-5)
    assert same.matched_fraction == 1.0
    assert same.matched_cosine is not None
    assert same.chance < 0.7
    opposite = stability([torch.eye(16), -torch.eye(16)])
    assert opposite.matched_cosine == pytest.approx(0.0, abs=1e-6)


def test_chance_knows_the_space_that_directions_share() -> None:
    """Directions in a plane agree much by chance, whatever the width around the plane."""
    plane = torch.nn.functional.pad(torch.randn(50, 2), (0, 30))
    other = torch.nn.functional.pad(torch.randn(50, 2), (0, 30))
    found = stability([plane, other])
    assert found.chance > 0.9
    assert found.matched_cosine == pytest.approx(found.chance, abs=0.1)


def test_large_dictionaries_are_not_matched() -> None:
    runs = [torch.randn(6, 4) for _ in range(2)]
    found = stability(runs, matched_up_to=5)
    assert found.matched_cosine is None
    assert found.matched_fraction is None
    assert found.nearest_cosine == pytest.approx(stability(runs).nearest_cosine)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least two"):
        stability([torch.eye(3)])
    with pytest.raises(InvalidInput, match="one shape"):
        stability([torch.eye(3), torch.eye(4)])
