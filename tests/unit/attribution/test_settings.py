"""What of a picture each setting lets an output see, on small networks of every kind."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution import methods
from dncbm.attribution.chain import Chain
from dncbm.attribution.headed import Headed
from dncbm.attribution.localisation import grid_pg
from dncbm.attribution.methods import upsampled
from dncbm.attribution.settings import (
    DiFull,
    DiPart,
    GridPG,
    Setting,
    setting_named,
)
from dncbm.attribution.tiles import cut, stitch
from dncbm.bcos import create_model
from dncbm.bcos.explain import explain
from dncbm.bcos.inputs import ImageModel
from dncbm.errors import InvalidInput, UnknownName
from tests.oracles import localisation as oracle

SIDE = 2


class _Cnn(nn.Module):
    """Two stages, a mean and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, stride=2), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images))
        return self.head(self.pool(features).flatten(1))


class _Vit(nn.Module):
    """A class token, learned positions, two blocks; it takes images of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positional_embedding = nn.Parameter(torch.randn(17, 8))
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in "ab")
        )
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.head(self.blocks(tokens + self.positional_embedding)[:, 0])


def _network(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double().eval().requires_grad_(False)


def _pictures() -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=draw)


CLASSES = torch.tensor([[0, 1, 2, 0], [3, 2, 1, 3], [1, 0, 3, 1]])


def _alone(network: nn.Module, image: np.ndarray) -> np.ndarray:
    return network(torch.from_numpy(image.copy())[None])[0].numpy()


def test_cells_and_pictures_are_each_others_inverse() -> None:
    pictures = torch.randn(2, 3, 9, 6)
    cells = cut(pictures, 3)
    assert cells.shape == (18, 3, 3, 2)
    for g, number in np.ndindex(2, 9):
        np.testing.assert_array_equal(
            cells[9 * g + number], oracle.cell(pictures[g].numpy(), 3, number)
        )
    assert torch.equal(stitch(cells, 3), pictures)


@pytest.mark.parametrize("kind", [_Cnn, _Vit])
def test_heads_of_difull_see_their_cell_alone(kind: type[nn.Module]) -> None:
    network, pictures = _network(kind), _pictures()
    found = DiFull(network, SIDE)(pictures)
    for g in range(3):
        expected = oracle.per_cell(lambda x: _alone(network, x), pictures[g].numpy(), SIDE)
        np.testing.assert_allclose(found[g], expected, atol=1e-12)


def test_heads_of_dipart_see_the_region_of_their_cell() -> None:
    network, pictures = _network(_Cnn), _pictures()
    found = DiPart(network, SIDE)(pictures)

    def backbone(picture: np.ndarray) -> np.ndarray:
        return network.second(network.first(torch.from_numpy(picture)[None]))[0].numpy()

    def head(features: np.ndarray) -> np.ndarray:
        return network.head(torch.from_numpy(features.mean(axis=(1, 2)))).numpy()

    for g in range(3):
        expected = oracle.per_region(backbone, head, pictures[g].numpy(), SIDE)
        np.testing.assert_allclose(found[g], expected, atol=1e-12)
    assert not torch.allclose(found, DiFull(network, SIDE)(pictures))  # borders


def test_gridpg_is_the_network_on_the_picture_or_on_a_small_one() -> None:
    network, pictures = _network(_Cnn), _pictures()
    setting = GridPG(network, SIDE)
    assert setting.chosen_fit(pictures) == "whole"
    torch.testing.assert_close(setting(pictures), network(pictures))
    vit = _network(_Vit)
    setting = GridPG(vit, SIDE)
    assert setting.chosen_fit(pictures) == "resize"
    small = nn.functional.interpolate(pictures, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(setting(pictures), vit(small))
    with pytest.raises(UnknownName, match="fit"):
        GridPG(vit, SIDE, fit="stretch")


def test_positions_are_interpolated_in_a_copy() -> None:
    vit, pictures = _network(_Vit), _pictures()
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    setting = GridPG(vit, SIDE, fit="interpolate")
    found = setting(pictures)
    grown: Any = setting.network
    assert grown.positional_embedding.shape == (65, 8)
    torch.testing.assert_close(grown.positional_embedding[0], vit.positional_embedding[0])
    assert grown.head.weight is vit.head.weight
    table = vit.positional_embedding[1:].view(1, 4, 4, 8).movedim(3, 1).float()
    large = nn.functional.interpolate(table, scale_factor=2, mode="bicubic", antialias=True)
    torch.testing.assert_close(
        grown.positional_embedding[1:], large.flatten(2).mT[0].double()
    )  # fmt: skip
    assert found.shape == (3, 4)
    assert all(torch.equal(vit.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(InvalidInput, match="no learned positions"):
        GridPG(_network(_Cnn), SIDE, fit="interpolate")


@pytest.mark.parametrize("kind", [GridPG, DiFull, DiPart])
@pytest.mark.parametrize("layer", [None, "first", "second"])
def test_a_setting_taken_apart_computes_what_the_whole_does(
    kind: type[Setting], layer: str | None
) -> None:
    setting, pictures = kind(_network(_Cnn), SIDE), _pictures()
    split = setting.split(pictures, layer)
    size = 16 if layer is None else 8
    assert split.features.shape[0] == 3
    assert split.features.shape[-2:] == (size, size)
    expected = setting(pictures)
    torch.testing.assert_close(split.explain(split.features), expected)
    torch.testing.assert_close(split.explain(split.features.clone()), expected)
    twice = torch.cat([split.features, split.features.detach() * 0.5])
    found = split.explain(twice)
    torch.testing.assert_close(found[:3], expected)
    assert len(found) == 6
    values = setting.targets(CLASSES)(found)
    torch.testing.assert_close(values[:3], setting.targets(CLASSES)(expected))


@pytest.mark.parametrize("layer", [None, "patches", "blocks.0"])
def test_vision_transformers_are_stitched_token_by_token(layer: str | None) -> None:
    setting, pictures = DiFull(_network(_Vit), SIDE), _pictures()
    split = setting.split(pictures, layer)
    assert split.features.shape[-1] == (16 if layer is None else 8)
    torch.testing.assert_close(split.explain(split.features.clone()), setting(pictures))
    maps = methods.input_x_gradient(setting, pictures, setting.targets(CLASSES), layer=layer)
    scores = grid_pg(maps, side=SIDE, scored=setting.scored)
    np.testing.assert_allclose(scores, 1.0)


def test_stitched_features_lie_as_the_cells_do() -> None:
    network, pictures = _network(_Cnn), _pictures()
    features = DiFull(network, SIDE).split(pictures, "first").features.detach()
    for number in range(4):
        own = torch.from_numpy(oracle.cell(pictures[1].numpy(), SIDE, number).copy())
        np.testing.assert_allclose(
            oracle.cell(features[1].numpy(), SIDE, number), network.first(own[None])[0]
        )


def test_targets_pick_the_head_and_the_class() -> None:
    network, pictures = _network(_Cnn), _pictures()
    whole, parts = GridPG(network, SIDE), DiFull(network, SIDE)
    assert whole.scored == (0, 1, 2, 3)
    assert parts.scored == (0, 3)
    output = whole(pictures)
    torch.testing.assert_close(whole.targets(CLASSES)(output), output.gather(1, CLASSES))
    output = parts(pictures)
    found = parts.targets(CLASSES)(output)
    for g in range(3):
        for t, cell in enumerate((0, 3)):
            assert found[g, t] == output[g, cell, CLASSES[g, cell]]
    one = parts.targets(CLASSES, [2])(output)
    assert one[1, 0] == output[1, 2, 1]
    with pytest.raises(InvalidInput, match="one per cell"):
        parts.targets(CLASSES[:, :3])
    with pytest.raises(InvalidInput, match="Class 9 does not exist"):
        parts.targets(CLASSES + 6)(output)


@pytest.mark.parametrize(
    "method", [methods.gradient, methods.input_x_gradient, methods.integrated_gradients,
               methods.layer_cam]
)  # fmt: skip
def test_gradient_methods_are_perfect_on_difull_at_the_input(method: Any) -> None:
    setting = DiFull(_network(_Cnn), SIDE)
    maps = method(setting, _pictures(), setting.targets(CLASSES))
    scores = grid_pg(maps, side=SIDE, scored=setting.scored)
    np.testing.assert_allclose(scores, 1.0)


def test_pooled_cams_split_between_corners_of_one_class() -> None:
    """Weights of the channels come from one corner, but the other has the same features."""
    torch.manual_seed(2)
    network = _network(_Cnn)
    nn.init.uniform_(network.head.weight, 0.1, 1.0)
    cells = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    cells[3] = cells[0]
    cells[1:3] = 0
    for part in (network.first[0], network.second[0]):
        nn.init.zeros_(part.bias)
    picture, classes = stitch(cells, SIDE), torch.tensor([[0, 1, 2, 0]])
    setting = DiFull(network, SIDE)
    targets = setting.targets(classes)
    cam = methods.grad_cam(setting, picture, targets, layer="second")
    np.testing.assert_allclose(grid_pg(cam, side=SIDE, scored=(0, 3)), 0.5, atol=1e-12)
    layered = methods.layer_cam(setting, picture, targets, layer="second")
    np.testing.assert_allclose(grid_pg(layered, side=SIDE, scored=(0, 3)), 1.0)


def test_settings_on_one_network_never_interfere() -> None:
    network, pictures = _network(_Cnn), _pictures()
    kinds = [GridPG(network, SIDE), DiFull(network, SIDE), DiPart(network, SIDE)]
    first = [kind(pictures) for kind in kinds]
    splits = [kind.split(pictures, "second") for kind in kinds]
    for kind, expected, split in zip(
        reversed(kinds), reversed(first), reversed(splits), strict=True
    ):
        torch.testing.assert_close(kind(pictures), expected)
        torch.testing.assert_close(split.explain(split.features.clone()), expected)
    assert not any(module._forward_hooks for module in network.modules())


def test_bcos_contributions_are_exact_in_every_setting() -> None:
    torch.manual_seed(0)
    network = create_model("resnet18", num_classes=4, small_inputs=True, width=4)
    model = ImageModel(network.eval(), encoding="inverse").double().eval()
    pictures = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    classes = torch.tensor([[0, 1, 2, 0]])
    whole = GridPG(model, SIDE)
    torch.testing.assert_close(
        methods.bcos(whole, pictures, whole.targets(classes)),
        explain(model, pictures, classes).maps,
    )
    full = DiFull(model, SIDE)
    maps = methods.bcos(full, pictures, full.targets(classes))
    alone = explain(model, cut(pictures, SIDE)[:1], 0).maps
    torch.testing.assert_close(cut(maps[:, :1], SIDE)[:1], alone)
    np.testing.assert_allclose(grid_pg(maps, side=SIDE, scored=(0, 3)), 1.0)
    part = DiPart(model, SIDE)
    assert methods.bcos(part, pictures, part.targets(classes)).shape == (1, 2, 32, 32)


def test_a_bcos_tower_under_a_head_is_explained_by_its_six_channels() -> None:
    torch.manual_seed(0)
    tower = ImageModel(
        create_model("resnet18", num_classes=4, small_inputs=True, width=4), encoding="inverse"
    ).double().eval()  # fmt: skip
    doubled = Headed(tower, lambda e: 2 * e)
    pictures, classes = torch.rand(1, 3, 16, 16, dtype=torch.float64), torch.tensor([[0, 1, 2, 3]])
    setting = GridPG(doubled, SIDE)
    torch.testing.assert_close(
        methods.bcos(setting, pictures, setting.targets(classes)),
        2 * explain(tower, pictures, classes).maps,
    )


def test_layers_are_trained_only_where_that_is_asked_for() -> None:
    for kind in (GridPG, DiFull, DiPart):
        network = _network(_Cnn).requires_grad_(True)
        setting = kind(network, SIDE)
        for create_graph in (False, True):
            network.zero_grad()
            maps = methods.grad_cam(
                setting, _pictures(), setting.targets(CLASSES), layer="second",
                create_graph=True,
            ) if create_graph else setting.split(_pictures(), "second").features  # fmt: skip
            if create_graph:
                maps.sum().backward()
            grads = [network.first[0].weight.grad, network.head.weight.grad]
            assert all(grad is not None for grad in grads) is create_graph


class _Brightness(nn.Module):
    """The logit of each class is the mean of one channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def test_smoothing_helps_where_signs_alternate() -> None:
    """S-IntGrad beats IntGrad in GridPG: opposite signs next to each other are averaged away."""
    draw = torch.Generator().manual_seed(0)
    cells = torch.randn(4, 4, 32, 32, generator=draw, dtype=torch.float64)
    for k in range(4):
        cells[k, k] += 0.4
    setting, classes = GridPG(_Brightness().eval(), SIDE), torch.tensor([[0, 1, 2, 3]])
    targets = setting.targets(classes)
    maps = methods.integrated_gradients(setting, stitch(cells, SIDE), targets, steps=2)
    plain, smooth = grid_pg(maps), grid_pg(Chain(smooth=9)(maps))
    assert bool((plain < 0.45).all())
    assert bool((smooth > 0.6).all())


def test_what_is_not_defined_is_refused_with_the_reason() -> None:
    vit, cnn, pictures = _network(_Vit), _network(_Cnn), _pictures()
    with pytest.raises(InvalidInput, match="DiFull is exact for every"):
        DiPart(vit, SIDE)(pictures)
    wide = GridPG(vit, SIDE, fit="interpolate").network

    class _AnySize(nn.Module):
        """Tokens of any number: attention sees the whole picture."""

        def __init__(self) -> None:
            super().__init__()
            self.patches, self.block = vit.patches, vit.blocks[0]

        def forward(self, images: Tensor) -> Tensor:
            return self.block(self.patches(images).flatten(2).mT).mean(dim=1)

    assert wide is not vit
    with pytest.raises(InvalidInput, match="makes tokens, which see the whole picture"):
        DiPart(_AnySize().double().eval(), SIDE)(pictures)
    with pytest.raises(InvalidInput, match="comes after second"):
        DiPart(cnn, SIDE).split(pictures, "head")
    with pytest.raises(UnknownName, match="Nearest known names: second"):
        DiFull(cnn, SIDE).split(pictures, "secnd")
    with pytest.raises(InvalidInput, match="divisible by 3"):
        DiFull(cnn, 3)(pictures)
    with pytest.raises(InvalidInput, match="2 where corners are compared"):
        DiFull(cnn, 1)
    with pytest.raises(UnknownName, match="setting"):
        setting_named("gridpq", cnn, 2)
    assert isinstance(setting_named("dipart", cnn, 2), DiPart)
    with pytest.raises(InvalidInput, match="are not divided by"):
        cut(torch.zeros(1, 2, 5, 4), 2)
    pointless = nn.Sequential(cnn.first, nn.Tanh(), cnn.second, nn.Tanh()).eval()
    unused = nn.ModuleDict({"used": pointless, "other": nn.Conv2d(3, 3, 1)})
    unused.forward = lambda x: unused["used"](x).mean((2, 3))  # type: ignore[assignment]
    with pytest.raises(InvalidInput, match="was called no times"):
        DiFull(unused, SIDE).split(pictures, "other")


def test_where_the_head_begins_can_be_said() -> None:
    network, pictures = _network(_Cnn), _pictures()
    by_rule, told = DiPart(network, SIDE), DiPart(network, SIDE, last="second.1")
    torch.testing.assert_close(by_rule(pictures), told(pictures))
    assert by_rule.backbone(pictures).name == "second"
    earlier = DiPart(network, SIDE, last="first")
    assert not torch.allclose(earlier(pictures), told(pictures))  # cut before the second stage
    with pytest.raises(InvalidInput, match="does not give features that grow"):
        DiPart(network, SIDE, last="pool")(pictures)


def test_maps_of_layers_are_brought_to_the_picture() -> None:
    setting = DiFull(_network(_Cnn), SIDE)
    maps = methods.layer_cam(setting, _pictures(), setting.targets(CLASSES), layer="second")
    assert maps.shape == (3, 2, 8, 8)
    scores = grid_pg(upsampled(maps, (16, 16)), side=SIDE, scored=(0, 3))
    assert bool((scores > 0.8).all())  # a little leaks over the border
    assert bool((scores < 1.0).all())
