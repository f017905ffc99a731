import numpy as np
import pytest
import torch

from dncbm.attribution.localisation import grid_pg, make_grids, tiled
from dncbm.attribution.methods import smoothed
from dncbm.errors import InvalidInput
from tests.oracles import attribution as oracle


@pytest.mark.parametrize(("side", "smoothing"), [(1, 1), (2, 1), (3, 3)])
def test_scores_are_the_oracles(side: int, smoothing: int) -> None:
    draw = torch.Generator().manual_seed(1)
    maps = torch.randn(2, side * side, 12, 6, generator=draw, dtype=torch.float64)
    found = grid_pg(maps, smoothing=smoothing)
    for g in range(2):
        for cell in range(side * side):
            smooth = oracle.window_mean(maps[g, cell].numpy(), smoothing)
            expected = oracle.share_in_cell(smooth, side, cell)
            assert float(found[g, cell]) == pytest.approx(expected)


def test_uniform_maps_get_the_area_and_empty_ones_nothing() -> None:
    np.testing.assert_allclose(grid_pg(torch.ones(1, 9, 6, 6)), 1 / 9)
    assert not grid_pg(-torch.ones(1, 4, 6, 6)).any()


def test_smoothing_is_a_mean_over_windows() -> None:
    maps = torch.randn(2, 5, 6, dtype=torch.float64)
    for found, one in zip(smoothed(maps, 3), maps.numpy(), strict=True):
        np.testing.assert_allclose(found, oracle.window_mean(one, 3))


def test_grids_show_what_they_say() -> None:
    labels = torch.arange(40) % 5
    images = torch.arange(40.0)[:, None, None, None].expand(40, 3, 2, 4)
    confidences = torch.rand(40, generator=torch.Generator().manual_seed(0))
    grids = make_grids(images, labels, confidences, side=2, count=12, seed=3)
    assert grids.images.shape == (12, 3, 4, 8)
    for g in range(12):
        assert len(set(grids.classes[g].tolist())) == 4
        for cell, (y, x) in enumerate([(0, 0), (0, 4), (2, 0), (2, 4)]):
            block = grids.images[g, :, y : y + 2, x : x + 4]
            assert set(block.ravel().tolist()) == {float(grids.sources[g, cell])}
            assert labels[grids.sources[g, cell]] == grids.classes[g, cell]
    for k in range(5):  # the most confident first, then the same again
        used = grids.sources[grids.classes == k].tolist()
        ranked = sorted(range(k, 40, 5), key=lambda i: -float(confidences[i]))
        assert used == (ranked * 2)[: len(used)]
    again = make_grids(images, labels, confidences, side=2, count=12, seed=3)
    assert torch.equal(again.sources, grids.sources)
    plain = make_grids(images, labels, side=2, count=1)
    assert plain.sources.max() < 5


def test_cells_go_row_by_row() -> None:
    cells = torch.arange(9.0).view(1, 9, 1, 1, 1)
    assert tiled(cells, 3)[0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_bad_calls_are_refused() -> None:
    with pytest.raises(InvalidInput, match="need 9 classes with images .* there are 4"):
        make_grids(torch.zeros(8, 3, 2, 2), torch.arange(8) % 4, side=3)
    for maps in (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5, 4)):
        with pytest.raises(InvalidInput, match="are no grid"):
            grid_pg(maps)
