"""Small networks and photos for tests of distillation."""

import numpy as np
import torch
from torch import nn

from dncbm.bcos import create_model
from dncbm.bcos.inputs import ImageModel
from dncbm.data.views import Views
from dncbm.distillation.viewed import Viewed
from dncbm.training.photos import Photos

COLOURS = Views(size=16)
NORMALISED = Views(size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def cnn(classes: int = 3, seed: int = 0, size: int = 16) -> Viewed:
    """A ResNet of ordinary parts."""
    torch.manual_seed(seed)
    network = create_model("standard_resnet18", num_classes=classes, small_inputs=True, width=4)
    return Viewed(network, Views(size=size, mean=NORMALISED.mean, std=NORMALISED.std))


def bcos(classes: int = 3, seed: int = 0) -> Viewed:
    """A B-cos ResNet."""
    torch.manual_seed(seed)
    network = create_model("resnet18", num_classes=classes, small_inputs=True, width=4)
    return Viewed(ImageModel(network, encoding="inverse"), COLOURS)


def vit(classes: int = 3, seed: int = 0) -> Viewed:
    """A vision transformer with a class token."""
    import timm

    torch.manual_seed(seed)
    network: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", num_classes=classes, img_size=16, patch_size=4, embed_dim=12,
        depth=2, num_heads=2, drop_rate=0.1,
    )  # fmt: skip
    return Viewed(network, NORMALISED)


def photos(count: int = 24, classes: int = 3, side: int = 20, seed: int = 0) -> Photos:
    """Each class has its colour; a quarter is held out."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 120, (count, 3, side, side), dtype=np.uint8)
    for row, label in enumerate(labels):
        images[row, label % 3, 4:14, 4:14] += 130
    rows = np.arange(count)
    held = count // 4
    return Photos(images=images, train=rows[held:], held_out=rows[:held], labels=labels)
