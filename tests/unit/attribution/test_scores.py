"""Scores of maps equal those that are counted place by place."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dncbm.attribution import scores
from dncbm.errors import InvalidInput, UnknownName
from tests.oracles import localisation as oracle


def _maps() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    maps = torch.randn(3, 2, 7, 5, generator=draw, dtype=torch.float64)
    maps[1, 1] = -maps[1, 1].abs()
    masks = torch.rand(3, 2, 7, 5, generator=draw) < 0.3
    masks[2, 0] = False
    return maps, masks


def test_mass_ratios_are_the_oracles() -> None:
    maps, masks = _maps()
    found = scores.mass_ratio(maps, masks)
    marked = scores.mass_ratio(maps, masks, undefined="nan")
    assert found.dtype == torch.float64
    for place in np.ndindex(3, 2):
        expected = oracle.mass_ratio(maps[place].numpy(), masks[place].numpy())
        assert float(found[place]) == pytest.approx(expected or 0.0, abs=1e-15)
        assert bool(marked[place].isnan()) == (expected is None)


def test_chance_is_what_a_uniform_map_scores() -> None:
    _, masks = _maps()
    uniform = torch.full((3, 2, 7, 5), 0.3, dtype=torch.float64)
    torch.testing.assert_close(scores.mass_ratio(uniform, masks), scores.chance(masks))
    torch.testing.assert_close(
        scores.above_chance(uniform, masks), torch.zeros(3, 2, dtype=torch.float64)
    )
    over = scores.over_chance(uniform, masks)
    assert over[2, 0].isnan()
    torch.testing.assert_close(over[:2], torch.ones(2, 2, dtype=torch.float64))


def test_differences_and_ratios_to_chance() -> None:
    maps, masks = _maps()
    ratio, area = scores.mass_ratio(maps, masks), masks.double().mean((-2, -1))
    torch.testing.assert_close(scores.above_chance(maps, masks), ratio - area)
    found = scores.over_chance(maps, masks)
    torch.testing.assert_close(found[area > 0], (ratio / area)[area > 0])


@pytest.mark.parametrize("side", [1, 2, 3])
def test_uniform_maps_score_one_cell_of_all(side: int) -> None:
    masks = scores.cell_masks(side, 6, 12)
    assert masks.sum(dim=0).eq(1).all()
    maps = torch.ones(1, side * side, 6, 12)
    np.testing.assert_allclose(scores.mass_ratio(maps, masks), 1 / side**2)
    for number in range(side * side):
        whole = np.zeros((1, 6, 12))
        oracle.cell(whole, side, number)[:] = 1
        np.testing.assert_array_equal(masks[number], whole[0].astype(bool))


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.3])
def test_pointing_games_are_the_oracles(tolerance: float) -> None:
    maps, masks = _maps()
    maps[0, 0] = 0
    maps[0, 0, 2, 1] = maps[0, 0, 4, 4] = 1.0  # of equal ones the first
    found = scores.pointing_game(maps, masks, tolerance=tolerance)
    for place in np.ndindex(3, 2):
        expected = oracle.points_inside(maps[place].numpy(), masks[place].numpy(), tolerance)
        assert bool(found[place]) == expected
    assert not scores.pointing_game(-torch.ones(1, 1, 3, 3), torch.ones(3, 3).bool()).any()


@pytest.mark.parametrize("scale", ["max", "min-max"])
def test_overlaps_are_the_oracles(scale: str) -> None:
    maps, masks = _maps()
    maps[0, 0] = maps[0, 0].abs() + 0.5  # a least value above 0
    for threshold in (0.2, 0.5, 1.0):
        found = scores.iou(maps, masks, threshold, scale=scale)
        for place in np.ndindex(3, 2):
            expected = oracle.iou(
                maps[place].numpy(), masks[place].numpy(), threshold,
                from_least=scale == "min-max",
            )  # fmt: skip
            assert float(found[place]) == pytest.approx(expected)


def test_the_threshold_is_the_best_on_held_out_maps() -> None:
    maps, masks = _maps()
    batches = [(maps[:1], masks[:1]), (maps[1:], masks[1:])]
    found = scores.choose_threshold(iter(batches), candidates=(0.1, 0.4, 0.7))
    means = {t: float(scores.iou(maps, masks, t).mean()) for t in (0.1, 0.4, 0.7)}
    assert found.value == max(means, key=lambda t: means[t])
    assert found.mean_iou == pytest.approx(max(means.values()))


def test_masks_broadcast_and_others_are_refused() -> None:
    maps, masks = _maps()
    alike = scores.mass_ratio(maps, masks[0, 0])
    torch.testing.assert_close(alike[:, 0], scores.mass_ratio(maps[:, :1], masks[0, 0])[:, 0])
    with pytest.raises(InvalidInput, match="Masks have shape"):
        scores.mass_ratio(maps, masks[..., :3])
    with pytest.raises(UnknownName, match="undefined"):
        scores.mass_ratio(maps, masks, undefined="none")
    with pytest.raises(UnknownName, match="scale"):
        scores.scaled(maps, "mean")
    with pytest.raises(InvalidInput, match="above 0 and at most 1"):
        scores.iou(maps, masks, 0.0)
    with pytest.raises(InvalidInput, match="at least 0 pixels"):
        scores.pointing_game(maps, masks, tolerance=-1)
    with pytest.raises(InvalidInput, match="0 held-out maps"):
        scores.choose_threshold([])
    with pytest.raises(InvalidInput, match="cells are no grid"):
        scores.cell_masks(2, 5, 4)
