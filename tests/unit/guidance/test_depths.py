"""Where depths lie in the networks that are guided, and what an unknown layer is told."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.models.zoo import create_model
from dncbm.errors import UnknownName
from dncbm.guidance.depths import DEPTHS, layer_at


def _name(network: nn.Module, depth: str) -> str:
    layer = layer_at(network, depth)
    return next(name for name, module in network.named_modules() if module is layer)


@pytest.mark.parametrize("kind", ["torchvision", "timm", "bcos"])
def test_depths_of_a_resnet_are_its_four_stages(kind: str) -> None:
    """As the papers guide them; names in letters of any case."""
    with torch.device("meta"):
        networks = {
            "torchvision": lambda: torchvision.models.resnet18(weights=None),
            "timm": lambda: timm.create_model("resnet18", pretrained=False),
            "bcos": lambda: ImageModel(create_model("resnet18"), encoding="inverse"),
        }
        network = networks[kind]()
    before = "network." if kind == "bcos" else ""
    found = [_name(network, depth) for depth in ("Mid1", "Mid2", "mid3", "FINAL")]
    assert found == [f"{before}layer{stage}" for stage in (1, 2, 3, 4)]
    assert layer_at(network, "Input") is None
    assert _name(network, f"{before}layer2.0.conv1") == f"{before}layer2.0.conv1"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("densenet121", "features.denseblock"),
        ("simple_vit_ti_patch16_224", "0.transformer.encoder_"),
    ],
)
def test_other_networks_are_taken_at_quarters_of_their_blocks(name: str, row: str) -> None:
    """Blocks of a DenseNet, encoders of a vision transformer."""
    with torch.device("meta"):
        network = create_model(name)
    found = [_name(network, depth) for depth in DEPTHS[1:]]
    places = [1, 2, 3, 4] if "dense" in name else [2, 5, 8, 11]
    assert found == [f"{row}{place}" for place in places]


def test_an_unknown_layer_is_told_its_nearest() -> None:
    """And a network without blocks knows its input only."""
    with torch.device("meta"):
        network = torchvision.models.resnet18(weights=None)
    with pytest.raises(UnknownName, match="layer4"):
        layer_at(network, "layr4")
    with pytest.raises(UnknownName, match="mid1"):
        layer_at(network, "mid5")
    with pytest.raises(UnknownName):
        layer_at(nn.Sequential(nn.Conv2d(3, 1, 1)), "final")
