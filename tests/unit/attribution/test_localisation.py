import numpy as np
import pytest
import torch

from dncbm.attribution.localisation import (
    confidence_of,
    grid_pg,
    grids_of,
    make_grids,
    plan_grids,
    sure_images,
    tiled,
)
from dncbm.attribution.methods import smoothed
from dncbm.errors import InvalidInput, UnknownName
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


def test_corners_repeat_a_class_with_another_image() -> None:
    labels = torch.arange(30) % 6
    plan = plan_grids(torch.arange(30) % 9, side=3, count=20, corners=True)
    assert torch.equal(plan.classes[:, 0], plan.classes[:, 8])
    assert bool((plan.sources[:, 0] != plan.sources[:, 8]).all())
    for row in plan.classes.tolist():
        assert len(set(row)) == 8
    plan = plan_grids(labels, side=2, count=5, corners=True)
    assert all(len(set(row)) == 3 for row in plan.classes.tolist())
    lonely = torch.tensor([0, 1, 2, 2])  # only class 2 has two images
    plan = plan_grids(lonely, side=2, count=4, corners=True)
    assert plan.classes[:, [0, 3]].eq(2).all()
    with pytest.raises(InvalidInput, match="no class has two images"):
        plan_grids(torch.arange(5), side=2, count=1, corners=True)
    with pytest.raises(InvalidInput, match="need 8 classes"):
        plan_grids(labels, side=3, count=1, corners=True)


def test_confidence_by_probability_and_margin() -> None:
    outputs = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.1, 0.0]])
    labels = torch.tensor([0, 1, 1, 1])
    exp = np.exp(outputs.double().numpy())
    softmax = exp[range(4), labels] / exp.sum(axis=1)
    np.testing.assert_allclose(confidence_of(outputs, labels, "softmax"), softmax, rtol=1e-6)
    np.testing.assert_allclose(
        confidence_of(outputs, labels, "sigmoid"),
        1 / (1 + np.exp(-outputs.numpy()[range(4), labels])), rtol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(
        confidence_of(outputs, labels, "margin"), [1.0, 3.0, -0.5, 0.1], rtol=1e-6
    )
    assert sure_images(outputs, labels, at_least=0.6).rows.tolist() == [0, 1]
    assert sure_images(outputs, labels, at_least=None).rows.tolist() == [0, 1, 3]
    margins = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 9.0])
    outputs = torch.stack([margins, -margins, torch.zeros(7)], dim=1)
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1])  # the last one is wrong
    best = sure_images(outputs, labels, by="margin", at_least=None, best_share=0.5)
    assert best.rows.tolist() == [0, 2, 5]
    assert best.confidences.tolist() == [5.0, 4.0, 6.0]
    few = sure_images(outputs, labels, by="margin", at_least=None, best_share=0.1)
    assert few.rows.tolist() == [0, 5]  # two at least, for both corners of a grid
    with pytest.raises(UnknownName, match="confidence"):
        confidence_of(outputs, labels, "entropy")
    with pytest.raises(InvalidInput, match="best_share is 0.0"):
        sure_images(outputs, labels, best_share=0.0)


def test_pictures_are_made_as_they_are_needed() -> None:
    labels = torch.arange(40) % 5
    images = torch.randn(40, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    asked: list[list[int]] = []

    def read(rows: list[int]) -> torch.Tensor:
        asked.append(list(rows))
        return images[rows]

    plan = plan_grids(labels, side=2, count=7, seed=3)
    parts = grids_of(plan, read, at_once=3)
    assert not asked
    first = next(parts)
    assert len(asked) == 1  # nothing is read ahead
    assert len(set(asked[0])) == len(asked[0]) <= 12
    whole = make_grids(images, labels, side=2, count=7, seed=3)
    found = torch.cat([first.images, *(part.images for part in parts)])
    assert torch.equal(found, whole.images)
    with pytest.raises(InvalidInput, match="at_once is 0"):
        next(grids_of(plan, read, at_once=0))


def test_maps_of_some_cells_are_scored_for_those() -> None:
    maps = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    found = grid_pg(maps[:, [0, 3]], side=2, scored=(0, 3))
    torch.testing.assert_close(found, grid_pg(maps)[:, [0, 3]])
    with pytest.raises(InvalidInput, match="are no grid"):
        grid_pg(maps, side=2, scored=(0, 3))
