"""Random views: each operation against a loop, and what the draws keep to."""

import itertools

import numpy as np
import pytest
import torch

from dncbm.data import augment
from dncbm.data.augment import Augmentation
from dncbm.data.views import Views
from dncbm.errors import InvalidInput
from tests.oracles import augment as oracles


@pytest.fixture
def images() -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    found = torch.rand(6, 3, 7, 8, generator=draw, dtype=torch.float64)
    found[0, :, 0, 0] = 0.5  # grey, black, white, and two channels alike
    found[0, :, 0, 1] = 0.0
    found[0, :, 0, 2] = 1.0
    found[0, :, 0, 3] = torch.tensor([0.7, 0.7, 0.2])
    return found


@pytest.mark.parametrize("name", ["brightened", "contrasted", "saturated"])
def test_factors_equal_the_loop(name: str, images: torch.Tensor) -> None:
    factors = torch.tensor([0.0, 0.6, 1.0, 1.4, 1.2, 0.9], dtype=torch.float64)
    found = getattr(augment, name)(images, factors)
    for mine, image, factor in zip(found, images, factors, strict=True):
        wanted = getattr(oracles, name)(image.numpy(), float(factor))
        np.testing.assert_allclose(mine.numpy(), wanted, atol=1e-12)


def test_hues_equal_the_loop(images: torch.Tensor) -> None:
    turns = torch.tensor([0.0, 0.1, -0.1, 0.5, -0.37, 0.25], dtype=torch.float64)
    found = augment.hued(images, turns)
    for mine, image, turn in zip(found, images, turns, strict=True):
        np.testing.assert_allclose(
            mine.numpy(), oracles.hued(image.numpy(), float(turn)), atol=1e-9
        )


def test_blurs_equal_the_loop(images: torch.Tensor) -> None:
    sigma = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    found = augment.blurred(images, sigma, 5)
    for mine, image, width in zip(found, images, sigma, strict=True):
        wanted = oracles.blurred(image.numpy(), float(width), 5)
        np.testing.assert_allclose(mine.numpy(), wanted, atol=1e-12)


def test_hues_and_blurs_are_torchvisions(images: torch.Tensor) -> None:
    transforms = pytest.importorskip("torchvision.transforms.functional")
    turn = torch.full((6,), 0.07, dtype=torch.float64)
    wanted = transforms.adjust_hue(images, 0.07)
    torch.testing.assert_close(augment.hued(images, turn), wanted, atol=1e-6, rtol=0)
    wanted = transforms.gaussian_blur(images, [5, 5], [0.8, 0.8])
    found = augment.blurred(images, torch.full((6,), 0.8, dtype=torch.float64), 5)
    torch.testing.assert_close(found, wanted)


def _photos(count: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, 12, 10), generator=draw, dtype=torch.uint8)


RECIPE = Augmentation(
    views=Views(size=8, smallest=0.1, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)), blur=0.5
)


def test_views_are_crops_with_each_operation_in_turn() -> None:
    """The whole recipe, photo by photo, in the order that was drawn."""
    photos, draws = _photos(9), RECIPE.draw(9, torch.Generator().manual_seed(2))
    found = RECIPE.apply(photos, draws)
    plain = Views(size=8).cropped(photos, draws.boxes).double()
    named = (oracles.brightened, oracles.contrasted, oracles.saturated, oracles.hued)
    for n in range(9):
        image = plain[n].numpy()
        for place in draws.order:
            image = named[place](image, float(draws.jitter[n, place]))
        image = oracles.saturated(image, 1 - float(draws.grey[n]))
        image = oracles.blurred(image, float(draws.sigma[n]), RECIPE.kernel)
        wanted = (image - np.array([0.4, 0.5, 0.6])[:, None, None]) / np.array([0.2, 0.3, 0.4])[
            :, None, None
        ]
        np.testing.assert_allclose(found[n].numpy(), wanted, atol=3e-5)


def test_parts_of_a_batch_see_what_the_batch_sees() -> None:
    photos, draws = _photos(10), RECIPE.draw(10, torch.Generator().manual_seed(2))
    whole = RECIPE.apply(photos, draws)
    for part in (slice(0, 4), slice(4, 9), slice(9, 10)):
        torch.testing.assert_close(RECIPE.apply(photos[part], draws[part]), whole[part])


def test_draws_keep_their_shares_and_ranges() -> None:
    draws = RECIPE.draw(4000, torch.Generator().manual_seed(1))
    changed = (draws.jitter != torch.tensor([1.0, 1, 1, 0])).any(1)
    for found, share in ((changed, 0.8), (draws.grey, 0.2), (draws.sigma > 0, 0.5)):
        assert float(found.double().mean()) == pytest.approx(share, abs=0.03)
    low, high = draws.jitter.amin(0), draws.jitter.amax(0)
    torch.testing.assert_close(low, torch.tensor([0.6, 0.6, 0.6, -0.1]), atol=0.01, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.4, 1.4, 1.4, 0.1]), atol=0.01, rtol=0)
    blurs = draws.sigma[draws.sigma > 0]
    assert float(blurs.min()) >= 0.1
    assert float(blurs.max()) <= 2.0
    orders = {RECIPE.draw(1, torch.Generator().manual_seed(s)).order for s in range(300)}
    assert orders == set(itertools.permutations(range(4)))
    again = RECIPE.draw(4000, torch.Generator().manual_seed(1))
    assert torch.equal(again.jitter, draws.jitter)
    assert torch.equal(again.boxes, draws.boxes)


def test_strength_zero_changes_nothing() -> None:
    plain = Augmentation(
        views=Views(size=12), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey=0.0
    )
    photos = _photos(3)
    draws = plain.draw(3, torch.Generator().manual_seed(2))
    wanted = Views(size=12).cropped(photos, draws.boxes)
    torch.testing.assert_close(plain.apply(photos, draws), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "values", [{"hue": 0.6}, {"grey": 1.1}, {"jitter": -0.1}, {"sigma": (0.0, 1.0)},
               {"sigma": (2.0, 1.0)}, {"brightness": float("nan")}],
)  # fmt: skip
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="rule"):
        Augmentation(views=Views(size=8), **values)  # type: ignore[arg-type]
