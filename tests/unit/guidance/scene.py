"""A world in which the right reason is a bright patch, and a wrong one is as good."""

import numpy as np
import torch
from torch import nn

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import BcosConv2d
from dncbm.data.views import Views
from dncbm.guidance.masks import Masks
from dncbm.guidance.photos import GuidedPhotos
from dncbm.training.photos import Photos

VIEWS = Views(size=12, smallest=0.7)
WHOLE = Views(size=12, smallest=1.0, longest=1.0, mirrored=False)
SIZE = 12


def scene(count: int = 80, *, annotated: float = 1.0, seed: int = 1) -> GuidedPhotos:
    """A patch of the class's colour top left; the bottom rows have the same colour everywhere.

    The last fifth is held out. Masks are those of the patches.
    """
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 90, (count, 3, SIZE, SIZE), dtype=np.uint8)
    labels = np.arange(count) % 3
    masks = np.zeros((count, SIZE, SIZE), bool)
    for row, label in enumerate(labels):
        y, x = draw.integers(0, 4, 2)
        images[row, label, y : y + 4, x : x + 4] += 120
        images[row, label, 9:, :] += 120
        masks[row, y : y + 4, x : x + 4] = True
    cut = count * 4 // 5
    rows = np.arange(count)
    used = rows[(rows >= cut) | (rows < round(annotated * cut))]
    photos = Photos(
        images=torch.from_numpy(images), train=rows[:cut], held_out=rows[cut:], labels=labels
    )
    truth = labels[:, None] == np.arange(3)
    return GuidedPhotos(
        photos=photos, truth=truth, masks=Masks(used, labels[used], masks[used]),
        groups=[("odd", "even")[row // 3 % 2] for row in rows],
    )  # fmt: skip


def network(*, is_bcos: bool = False) -> nn.Module:
    """A small convolutional classifier of three classes, B-cos or not; `row` has three blocks."""
    torch.manual_seed(3)
    if not is_bcos:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 36, 3),
        )  # fmt: skip
    return ImageModel(
        nn.Sequential(
            BcosConv2d(6, 8, 3, padding=1), BcosConv2d(8, 8, 3, padding=1), BcosConv2d(8, 3, 3),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ),
        encoding="inverse",
    )  # fmt: skip
