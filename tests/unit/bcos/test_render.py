import numpy as np
import pytest
import torch

from dncbm.bcos.render import heat, on_white, rgba, window_of
from tests.oracles import bcos as oracle


@pytest.mark.parametrize(("smooth", "percentile"), [(1, 99.5), (3, 90.0), (5, 100.0)])
def test_pictures_are_the_oracles(smooth: int, percentile: float) -> None:
    draw = torch.Generator().manual_seed(1)
    inputs = torch.rand(2, 6, 7, 8, generator=draw, dtype=torch.float64)
    weights = torch.randn(2, 3, 6, 7, 8, generator=draw, dtype=torch.float64)
    found = rgba(inputs[:, None], weights, smooth=smooth, percentile=percentile)
    assert found.shape == (2, 3, 7, 8, 4)
    for i in range(2):
        for t in range(3):
            picture = oracle.rgba(inputs[i].numpy(), weights[i, t].numpy(), smooth, percentile)
            np.testing.assert_allclose(found[i, t], picture, rtol=1e-9, atol=1e-12)


def test_nothing_is_transparent() -> None:
    picture = rgba(torch.rand(6, 5, 5), torch.zeros(6, 5, 5))
    assert bool(torch.isfinite(picture).all())
    assert float(picture[..., 3].max()) == 0
    assert int(on_white(picture).min()) == 255


def test_contributions_are_red_for_and_blue_against() -> None:
    maps = torch.tensor([[[2.0, -1.0], [0.0, 1.0]]])
    [picture] = heat(maps, percentile=100.0).tolist()
    assert picture == [[[1, 0, 0, 1], [0, 0, 1, 0.5]], [[0, 0, 0, 0], [1, 0, 0, 0.5]]]
    assert on_white(heat(maps, percentile=100.0))[0, 0].tolist() == [[255, 0, 0], [128, 128, 255]]
    assert not heat(torch.zeros(1, 2, 2))[..., 3].any()


def test_heat_can_be_smoothed() -> None:
    maps = torch.zeros(2, 5, 5)
    maps[:, 2, 2] = 9.0
    opacity = heat(maps, smooth=3, percentile=100.0)[..., 3]
    assert opacity[0, 1:4, 1:4].eq(1).all()
    assert float(opacity[0].sum()) == 9
    assert (window_of(224), window_of(96), window_of(8)) == (15, 7, 1)
