import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from dncbm.bcos.convert import (
    EXACT,
    ConvertOptions,
    biases,
    clamp_exponents,
    convert,
    exponents,
    set_b,
)
from dncbm.bcos.explain import explain
from dncbm.bcos.inputs import negated
from dncbm.bcos.mode import explanation_mode
from dncbm.bcos.models.zoo import create_model
from dncbm.errors import InvalidInput, UnknownName
from tests.unit.bcos.convert_zoo import FULL, SMALL, largest_error, randomised, unaccounted

ALL = SMALL | FULL


def small_convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(5, 2),
    )  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_with_b_of_one_and_its_biases_the_network_is_the_original(name: str) -> None:
    build, size = ALL[name]
    model = randomised(build)
    pixels = torch.randn(2, 3, size, size)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        model, pixels = model.to(dtype), pixels.to(dtype)
        expected = model(pixels)
        assert (expected[0] - expected[1]).abs().max() > 0.01  # it tells images apart
        error = largest_error(convert(model, EXACT, check=False)(pixels), expected)
        assert error <= tolerance


CHOICES = {
    "kept": {"b": 1.5, "bias": "keep", "norm": "centred", "pool": "keep", "position": "keep"},
    "dropped": {
        "activation": "identity", "position": "drop", "normalize_weights": True,
        "norm": "uncentred-plain",
    },
    "recipe": {},
    "other": {
        "bias": "decay", "head_before_pool": False, "logit_bias": -2.0, "b_mode": "learnable",
        "position": "keep",
    },
}  # fmt: skip
VARIED = ("timm vit", "timm efficientnet", "open_clip resnet", "torchvision densenet")


@pytest.mark.parametrize(
    ("name", "choice"),
    [(name, choice) for name in SMALL for choice in ("kept", "recipe")]
    + [(name, choice) for name in VARIED for choice in ("dropped", "other")],
)
def test_pixels_positions_and_biases_add_up_to_the_output(name: str, choice: str) -> None:
    """Of every architecture, and values are the same in explanation mode.

    Blind for layers that are homogeneous, which is what the oracles are for.
    """
    choices = CHOICES[choice]
    build, size = SMALL[name]
    converted = convert(randomised(build).double(), check=False, **choices)
    pixels = torch.randn(2, 3, size, size, dtype=torch.float64)
    assert unaccounted(converted, pixels) <= 1e-9


@pytest.mark.parametrize("norm", ["uncentred", "centred"])
def test_both_ways_to_keep_the_mean_are_the_original(norm: str) -> None:
    model = randomised(small_convnet).double()
    pixels = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    converted = convert(model, EXACT, norm=norm)
    assert largest_error(converted(pixels), model(pixels)) <= 1e-12


def test_the_original_and_its_mode_are_left_alone() -> None:
    model = randomised(small_convnet).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    converted = convert(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(value.requires_grad for value in model.parameters())
    assert all(value.requires_grad for value in converted.parameters())
    assert not any(part.training for part in converted.modules())
    own = {value.data_ptr() for value in model.parameters()}
    assert not own & {value.data_ptr() for value in converted.parameters()}


def test_the_recipe_has_no_biases_and_average_pooling() -> None:
    converted = convert(randomised(small_convnet))
    assert not biases(converted)
    assert not any(isinstance(part, nn.MaxPool2d) for part in converted.modules())
    kept = convert(randomised(small_convnet), bias="decay", pool="keep")
    assert len(biases(kept)) == 4
    assert any(isinstance(part, nn.MaxPool2d) for part in kept.modules())


def _stages(resnet: nn.Module) -> list[nn.Module]:
    names = ("conv1", "bn1", "relu", "layer1", "layer2", "layer3", "layer4")
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return [*(resnet.get_submodule(name) for name in names), *pool, resnet.get_submodule("fc")]


@torch.no_grad()
def test_antialiased_strides_are_those_of_the_ordinary_antialiased_network() -> None:
    size = {"width": 8, "depths": (1, 1, 1, 1), "small_inputs": True}
    plain = create_model("standard_resnet18", num_classes=3, **size).double().eval()
    smooth = create_model("standard_resnet18", num_classes=3, antialiased=True, **size).double()
    smooth.load_state_dict(plain.state_dict())
    pixels = torch.randn(2, 3, 34, 38, dtype=torch.float64)
    expected = smooth.eval()(pixels)
    found = convert(nn.Sequential(*_stages(plain)).eval(), EXACT, antialiased=True)(pixels)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain(pixels), rtol=0.01)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("name", ["standard_resnet18", "standard_densenet121"])
def test_the_librarys_own_twins_become_b_cos(name: str, antialiased: bool) -> None:
    size = {"width": 8, "depths": (1, 1, 1, 1), "small_inputs": True}
    twin = create_model(name, num_classes=3, antialiased=antialiased, **size).double().eval()
    pixels = torch.randn(2, 3, 40, 34, dtype=torch.float64)
    torch.testing.assert_close(convert(twin, EXACT)(pixels), twin(pixels))

    model = convert(twin)
    maps = model.network.features(negated(pixels))
    head = model.network.get_submodule(model.network.head_path)
    places = [head(maps[:, :, [y]][..., [x]]) for y, x in np.ndindex(*maps.shape[2:])]
    expected = torch.stack(places).mean((0, 3, 4))
    torch.testing.assert_close(model(pixels), expected)
    explained = explain(model, pixels, 2)
    torch.testing.assert_close(explained.values[:, 0], model(pixels)[:, 2])
    torch.testing.assert_close(explained.maps.sum((2, 3)), explained.values)


def test_antialiased_strides_treat_all_pixels_alike() -> None:
    """A pointwise stride drops three pixels in four; a pool of 3 counts every second one twice."""
    strided = (nn.Conv2d(3, 4, 1, stride=2, bias=False), nn.MaxPool2d(3, 2, 1))
    for layers in (strided, strided[:1], (nn.Conv2d(3, 4, 1, bias=False), strided[1])):
        for antialiased in (False, True):
            model = nn.Sequential(*layers)
            converted = convert(model, antialiased=antialiased, b=1.0, check=False)
            pixels = torch.ones(1, 3, 24, 24, requires_grad=True)
            (found,) = torch.autograd.grad(converted(pixels).sum(), pixels)
            inside = found[0, 0, 8:16, 8:16]
            assert torch.allclose(inside, inside[0, 0], atol=1e-6) == antialiased


def test_windows_that_share_pixels_evenly_stay_as_they_are() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 2, stride=2), nn.MaxPool2d(2), nn.Conv2d(4, 4, 5, stride=4)
    )
    plain, smooth = (convert(model, antialiased=choice) for choice in (False, True))
    pixels = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(smooth(pixels), plain(pixels))


def test_the_head_before_pooling_is_the_same_at_b_of_one_and_another_beyond() -> None:
    model = randomised(small_convnet)
    pixels = torch.randn(2, 3, 12, 12)
    for b, same in ((1.0, True), (2.0, False)):
        moved, kept = (
            convert(model, b=b, head_before_pool=choice)(pixels) for choice in (True, False)
        )
        assert torch.allclose(moved, kept, atol=1e-6) == same


def test_a_head_that_cannot_move_is_said_so_only_where_asked() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.GELU(), nn.Flatten(), nn.Linear(4, 2)
    )  # fmt: skip
    convert(model)
    with pytest.raises(InvalidInput, match="head_before_pool"):
        convert(model, head_before_pool=True)
    with pytest.raises(InvalidInput, match="reads its answer from one token"):
        convert(randomised(SMALL["timm vit"][0]), head_before_pool=True)


def test_an_annealed_b_starts_at_one_and_follows_its_schedule() -> None:
    model = randomised(small_convnet)
    annealed, fixed = convert(model, b_mode="annealed"), convert(model)
    pixels = torch.randn(2, 3, 12, 12)
    assert torch.equal(annealed(pixels), convert(model, b=1.0)(pixels))
    set_b(annealed, 2.0)
    assert torch.equal(annealed(pixels), fixed(pixels))
    with pytest.raises(InvalidInput, match=r"0\.5"):
        set_b(annealed, 0.5)


@pytest.mark.parametrize("b", [1.0, 2.0])
def test_a_learnable_b_is_a_parameter_of_each_layer_with_a_gradient(b: float) -> None:
    model = convert(randomised(small_convnet), b=b, b_mode="learnable").train()
    model(torch.randn(4, 3, 12, 12)).square().sum().backward()
    found = exponents(model)
    assert len(found) == 3
    assert all(value.grad is not None and value.grad != 0 for value in found)
    set_b(model, 1.5)
    assert all(value.item() == 1.5 for value in found)
    with torch.no_grad():
        found[0].fill_(0.2)
    clamp_exponents(model)
    assert 1 < found[0].item() < 1.001
    assert not exponents(convert(randomised(small_convnet)))


def test_centred_norms_are_explained_in_eval_only() -> None:
    model = convert(randomised(small_convnet), norm="centred").train()
    model(torch.randn(2, 3, 12, 12))
    with explanation_mode(), pytest.raises(InvalidInput, match=r"eval\(\)"):
        model(torch.randn(2, 3, 12, 12))


def test_a_shared_layer_stays_shared() -> None:
    conv = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), conv, nn.ReLU(), conv)
    network = convert(model).network
    assert network[1] is network[3]


def test_a_frozen_half_precision_network_keeps_its_type() -> None:
    model = randomised(small_convnet).bfloat16()
    converted = convert(model, check=False)
    assert converted(torch.randn(1, 3, 12, 12).bfloat16()).dtype == torch.bfloat16


def test_a_transformer_says_which_images_it_takes() -> None:
    build, size = SMALL["timm vit"]
    with pytest.raises(InvalidInput, match="tokens, but the network has"):
        convert(randomised(build))(torch.randn(1, 3, 2 * size, size))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        convert(nn.Conv2d(3, 4, 1), b=0.5)
    with pytest.raises(UnknownName, match="beta"):
        convert(nn.Conv2d(3, 4, 1), beta=1.0)
    options = ConvertOptions()
    object.__setattr__(options, "bias", "none")  # what the type checker of the tests forbids
    with pytest.raises(UnknownName, match="drop, keep"):
        options.__post_init__()


def test_torchvision_resnets_have_the_keys_of_released_checkpoints() -> None:
    with torch.device("meta"):
        fresh = torchvision.models.resnet18()
    model = fresh.to_empty(device="cpu").eval()
    for value in (*model.parameters(), *model.buffers()):
        value.detach().fill_(1)
    state = convert(model, check=False).network.state_dict()
    assert len(state) == 101
    assert state["conv1.linear.weight"].shape == (64, 6, 7, 7)
    assert state["layer2.0.downsample.0.linear.weight"].shape == (128, 64, 1, 1)
    assert state["fc.linear.weight"].shape == (1000, 512, 1, 1)
