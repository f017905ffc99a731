"""Mean maps by percentile: exact numbers of maps, in the right order, on one scale."""

import numpy as np
import pytest
import torch

from dncbm.attribution.aggregate import CLAMPED, EDGES, MapStore, bin_edges, ranked
from dncbm.errors import InvalidInput
from tests.oracles import localisation as oracle


@pytest.mark.parametrize("count", [1, 7, 20, 500, 999, 1000, 2000])
def test_every_map_is_in_one_bin(count: int) -> None:
    edges = bin_edges(count)
    assert edges[0] == 0
    assert edges[-1] == count
    assert all(low <= high for low, high in zip(edges, edges[1:], strict=False))


def test_bins_have_the_numbers_that_percentiles_say() -> None:
    assert np.diff(bin_edges(1000)).tolist() == [20, 30, 450, 450, 30, 20]
    assert np.diff(bin_edges(500)).tolist() == [10, 15, 225, 225, 15, 10]
    with pytest.raises(InvalidInput, match="percentiles from 0 to 100"):
        bin_edges(10, (0, 50, 40, 100))


def test_equal_scores_go_by_the_mass_inside() -> None:
    scores, inside = np.array([0.2, 0.9, 0.9, np.nan]), np.array([5.0, 1.0, 2.0, 9.0])
    assert ranked(scores, inside).tolist() == [2, 1, 0, 3]


def test_means_are_the_oracles() -> None:
    draw = torch.Generator().manual_seed(5)
    maps = torch.randn(40, 6, 4, generator=draw)
    scores, inside = torch.rand(40, generator=draw), torch.rand(40, generator=draw)
    scores[3] = scores[4] = scores[5]
    store = MapStore()
    for part in (slice(0, 17), slice(17, 40)):
        store.add(maps[part], scores[part], inside[part])
    found = store.aggregate()
    means, numbers = oracle.mean_maps(
        maps.double().numpy(), scores.double().numpy(), inside.double().numpy(), EDGES
    )
    assert list(found.counts) == numbers
    for mine, expected, bounds in zip(found.maps, means, found.scores, strict=True):
        if expected is None:
            assert bounds is None
            assert not mine.any()
        else:
            np.testing.assert_allclose(mine, expected, atol=2e-3)  # half precision
    filled = np.stack([mean for mean in means if mean is not None])
    assert found.normaliser == pytest.approx(np.quantile(filled, 1 - CLAMPED), rel=2e-3)
    assert float(found.shown().max()) == 1.0
    assert found.scores[2][0] >= found.scores[3][1]  # type: ignore[index]


def test_large_maps_are_kept_small() -> None:
    store = MapStore(size=4)
    maps = torch.rand(2, 16, 16)
    store.add(maps, torch.tensor([0.1, 0.2]), torch.zeros(2))
    found = store.aggregate((0, 50, 100))
    assert found.maps.shape == (2, 4, 4)
    expected = maps[1].view(4, 4, 4, 4).mean(dim=(1, 3))
    torch.testing.assert_close(found.maps[0], expected, atol=1e-3, rtol=0)
    with pytest.raises(InvalidInput, match="no maps"):
        MapStore().aggregate()


def test_maps_without_positive_values_stay_empty() -> None:
    store = MapStore()
    store.add(-torch.ones(3, 2, 2), torch.zeros(3), torch.zeros(3))
    found = store.aggregate()
    assert found.normaliser == 0.0
    assert not found.shown().any()
