"""Crops against a slow loop over pixels, and what random crops keep to."""

import pytest
import torch

from dncbm.data.views import Views
from dncbm.errors import InvalidInput
from tests.oracles.guidance import cropped_mask
from tests.oracles.views import cropped


@pytest.fixture
def photos() -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (4, 3, 9, 7), generator=draw, dtype=torch.uint8)


def test_crops_equal_the_loop(photos: torch.Tensor) -> None:
    """Place, size and turn of each crop, interpolated between pixel centres."""
    views = Views(size=5, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), smallest=0.3)
    boxes = views.draw(4, torch.Generator().manual_seed(1))
    assert set(boxes[:, 4].tolist()) == {1.0, -1.0}
    wanted = cropped(photos.numpy(), boxes.double().numpy(), 5, views.mean, views.std)
    torch.testing.assert_close(
        views.cropped(photos, boxes).double(), torch.from_numpy(wanted), rtol=0, atol=2e-5
    )


def test_a_crop_of_everything_is_the_photo() -> None:
    """At the photo's own size nothing is interpolated: shares of white."""
    photo = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    views = Views(size=4)
    box = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0]]).expand(2, 5)
    torch.testing.assert_close(views.cropped(photo, box), photo / 255, rtol=0, atol=1e-6)
    torch.testing.assert_close(views.whole(photo), photo / 255)
    turned = views.cropped(photo, box * torch.tensor([1.0, 1, 1, 1, -1]))
    torch.testing.assert_close(turned, (photo / 255).flip(-1), rtol=0, atol=1e-6)


def test_random_crops_lie_within_the_photo() -> None:
    """Also the smallest and the longest; areas reach from the smallest share to all."""
    views = Views(size=4, smallest=0.1, longest=2.0)
    height, width, y, x, turned = views.draw(4000, torch.Generator().manual_seed(0)).unbind(1)
    assert (y.abs() + height <= 1 + 1e-6).all()
    assert (x.abs() + width <= 1 + 1e-6).all()
    ratio = width / height
    assert 0.49 < ratio.min() < 0.55
    assert 1.8 < ratio.max() < 2.01
    assert (height * width).min() < 0.12
    assert (height * width).max() > 0.95
    assert abs(turned.mean()) < 0.05
    assert (Views(size=4, mirrored=False).draw(50, torch.Generator())[:, 4] == 1).all()


def test_photos_of_another_size_are_shown_whole(photos: torch.Tensor) -> None:
    """Grey stays grey, whatever the sizes."""
    grey = torch.full((1, 3, 20, 11), 51, dtype=torch.uint8)
    torch.testing.assert_close(Views(size=6).whole(grey), torch.full((1, 3, 6, 6), 0.2))


@pytest.mark.parametrize("change", [{"size": 0}, {"smallest": 0.0}, {"longest": 0.5}])
def test_bad_settings_are_refused(change: dict[str, float]) -> None:
    """The message has the values and the rule."""
    with pytest.raises(InvalidInput, match="the rule is a size of at least 1"):
        Views(**{"size": 4} | change)  # type: ignore[arg-type]


def test_masks_are_cropped_with_their_photos_to_the_pixel() -> None:
    """Each pixel of a crop has the mask's value at its middle; masks may have another size."""
    views = Views(size=6, smallest=0.2)
    boxes = views.draw(8, torch.Generator().manual_seed(2))
    draw = torch.Generator().manual_seed(3)
    masks = torch.rand(8, 2, 11, 9, generator=draw) > 0.5
    found = views.cropped_masks(masks, boxes)
    for n in range(8):
        for t in range(2):
            wanted = cropped_mask(masks[n, t].numpy(), boxes[n].double().numpy(), 6)
            assert (found[n, t].numpy() == wanted).all()


def test_a_mask_lies_where_its_photo_shows_it() -> None:
    """A white rectangle and its mask in crops and mirrored: they differ only at edges."""
    photo = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    photo[..., 8:20, 4:14] = 255
    views = Views(size=32, smallest=0.3)
    boxes = views.draw(16, torch.Generator().manual_seed(0))
    shown = views.cropped(photo.expand(16, -1, -1, -1), boxes)[:, 0]
    masks = views.cropped_masks((photo[:, :1] > 0).expand(16, -1, -1, -1), boxes)[:, 0]
    sure = (shown < 0.01) | (shown > 0.99)
    assert (masks == (shown > 0.5))[sure].all()
    whole = torch.tensor([[1.0, 1.0, 0.0, 0.0, -1.0]])
    assert torch.equal(views.cropped_masks(photo[:, :1] > 0, whole), (photo[:, :1] > 0).flip(-1))
