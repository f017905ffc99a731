"""All methods have one signature, at every layer and in grid settings, and say what they cannot."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dncbm.attribution.catalogue import METHODS, method_named
from dncbm.attribution.settings import DiFull, GridPG
from dncbm.bcos.explain import target_values
from dncbm.errors import InvalidInput, UnknownName
from tests.unit.attribution._networks import TARGETS, images, relus

OF_CNNS = [name for name in METHODS if name not in ("bcos", "rollout")]
DIFFERENTIABLE = [name for name in OF_CNNS if METHODS[name].differentiable]
FEW: dict[str, Any] = {
    "rise": {"masks": 8},
    "integrated_gradients": {"steps": 2},
    "smoothed_integrated_gradients": {"steps": 2},
    "smooth_grad": {"samples": 2},
}


def _pooled() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    ).double()  # fmt: skip


@pytest.mark.parametrize("name", OF_CNNS)
def test_maps_have_the_size_of_their_layer(name: str) -> None:
    info, options = method_named(name), FEW.get(name, {})
    for layer, size in ((None, (5, 7)), ("1", (3, 4)), ("3", (2, 3))):
        found = info.function(relus(), images(), TARGETS, layer=layer, **options)
        assert found.shape == (2, 2, *size)
        assert not found.requires_grad
        assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("name", OF_CNNS)
def test_each_target_is_explained_as_if_alone_and_by_a_function_as_by_its_number(name: str) -> None:
    info, net = method_named(name), relus()
    options = {"layer": "1", **FEW.get(name, {})}
    both = info.function(net, images(), TARGETS, **options)
    second = info.function(net, images(), TARGETS[:, 1], **options)
    torch.testing.assert_close(both[:, 1:], second)
    asked = info.function(net, images(), lambda output: target_values(output, TARGETS), **options)
    torch.testing.assert_close(asked, both)
    best = net(images()).argmax(dim=1)
    torch.testing.assert_close(
        info.function(net, images(), **options), info.function(net, images(), best, **options)
    )


@pytest.mark.parametrize("name", OF_CNNS)
@pytest.mark.parametrize("layer", [None, "1"])
def test_grids_are_explained_as_networks_are(name: str, layer: str | None) -> None:
    net, options = _pooled(), FEW.get(name, {})
    cells = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    classes = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 1]])
    for setting in (DiFull(net, 2), GridPG(net, 2)):
        targets = setting.targets(classes)
        found = METHODS[name].function(setting, cells, targets, layer=layer, **options)
        assert found.shape == (2, 2 if setting.corners else 4, 8, 8)
    plain = METHODS[name].function(net, cells, classes, layer=layer, **options)
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("name", ["gradient", "guided_backprop"])
def test_gradients_before_a_global_mean_are_the_same_everywhere(name: str) -> None:
    """Rao et al. 2022, section 5.2: why they score at chance at the last layer of ResNets."""
    found = METHODS[name].function(_pooled(), images(), TARGETS, layer="3")
    torch.testing.assert_close(found, found[:, :, :1, :1].expand(found.shape))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_loss_on_maps_trains_the_head_and_what_is_before_the_layer(name: str) -> None:
    net, options = relus(), FEW.get(name, {})
    net[3] = nn.Tanh()  # so that gradients depend on the features
    maps = METHODS[name].function(net, images(), TARGETS, layer="1", create_graph=True, **options)
    maps.square().sum().backward()
    for part in (net[0], net[2], net[5]):
        assert part.weight.grad is not None
        assert bool(part.weight.grad.any())


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].differentiable])
def test_methods_that_cannot_be_trained_through_name_those_that_can(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} cannot be .* input_x_gradient, .* grad_cam,"):
        METHODS[name].function(relus(), images(), 0, create_graph=True)


def test_unknown_methods_and_layers_get_the_nearest_names() -> None:
    with pytest.raises(UnknownName, match="Nearest known names: .*grad_cam"):
        method_named("gradcam")
    named = nn.Sequential()
    named.add_module("layer4", nn.Conv2d(3, 2, 1))
    for name in OF_CNNS:
        with pytest.raises(UnknownName, match="Nearest known names: layer4"):
            METHODS[name].function(named, images().float(), 0, layer="layer5")


def test_the_documentation_lists_all_methods_as_they_are() -> None:
    page = (Path(__file__).parents[3] / "docs" / "attribution.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|[^|]*\| (yes|no) \|", page, re.MULTILINE)
    said = {name: (kind, able == "yes") for name, kind, able in rows}
    assert said == {name: (info.kind, info.differentiable) for name, info in METHODS.items()}
