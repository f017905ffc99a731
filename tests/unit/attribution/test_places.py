"""Layers that are chosen for a network, and where its head begins."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution.headed import Headed
from dncbm.attribution.places import automatic_layers, backbone_of, resolved_layer
from dncbm.bcos import create_model
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.originals import build_classifier
from dncbm.encoders.clip import load_encoder
from dncbm.errors import InvalidInput, UnknownName

SMALL: dict[str, Any] = {"num_classes": 5, "small_inputs": True, "width": 4}


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    return build_classifier("torchvision", "vgg11", 5)[0].eval()


def _layers(network: nn.Module, size: int) -> tuple[str | None, str | None]:
    found = automatic_layers(network.eval(), torch.zeros(1, 3, size, size))
    assert found["input"] is None
    return found["middle"], found["final"]


def test_stages_of_convolutional_networks(vgg: nn.Module) -> None:
    assert _layers(create_model("standard_resnet18", **SMALL), 32) == ("layer2", "layer4")
    bcos = ImageModel(create_model("resnet18", **SMALL), encoding="inverse")
    assert _layers(bcos, 32) == ("network.layer2", "network.layer4")
    assert _layers(build_classifier("torchvision", "resnet18", 5)[0], 64) == ("layer2", "layer4")
    assert _layers(vgg, 64) == ("features.9", "features")
    tower = load_encoder("mini", device="cpu").image_tower()
    headed = Headed(tower, lambda e: e[:, :3])
    assert _layers(headed, 96) == ("tower.trunk.s2", "tower.trunk.s4")
    automatic = automatic_layers(headed, torch.zeros(1, 3, 96, 96))
    assert resolved_layer(headed, "final", automatic) == "tower.trunk.s4"
    assert resolved_layer(headed, "trunk.s3", automatic) == "tower.trunk.s3"
    assert resolved_layer(headed, "tower.trunk.s1", automatic) == "tower.trunk.s1"
    with pytest.raises(UnknownName, match="Nearest known names: tower.trunk"):
        resolved_layer(headed, "tower.trunk.s9", automatic)


def test_blocks_of_vision_transformers() -> None:
    """With a class token, what the last block makes of patches reaches no output."""
    vit = build_classifier("timm", "vit_tiny_patch16_224", 5)[0]
    assert _layers(vit, 224) == ("blocks.5", "blocks.10")
    ours = create_model("vitc_ti_patch1_14", num_classes=5)
    model = ImageModel(ours, encoding="inverse")
    blocks = "network.0.transformer.encoder_"
    assert _layers(model, 224) == (f"{blocks}5", f"{blocks}10")  # of 11, without class token


def test_heads_that_can_be_told_apart(vgg: nn.Module) -> None:
    cell = torch.zeros(1, 3, 64, 64)
    resnet = build_classifier("torchvision", "resnet18", 5)[0].eval()
    assert backbone_of(resnet, cell, 2).name == "layer4"
    assert backbone_of(vgg, cell, 2).name == "features"
    bcos = ImageModel(create_model("resnet18", **SMALL), encoding="inverse").eval()
    assert backbone_of(bcos, cell, 2).name == "network.fc"  # its head comes before the mean
    with pytest.raises(InvalidInput, match="not whole grids"):
        backbone_of(
            build_classifier("timm", "vit_tiny_patch16_224", 5)[0].eval(),
            torch.zeros(1, 3, 224, 224), 2,
        )  # fmt: skip


class _Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mean((2, 3)))


def test_networks_without_places_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no layer with places"):
        automatic_layers(_Flat(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(InvalidInput, match="no layer features that grow"):
        backbone_of(_Flat(), torch.zeros(1, 3, 8, 8), 2)
