import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.bcos import create_model, model_names, replace_head
from dncbm.bcos.explain import explain
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.mode import explanation_mode
from dncbm.bcos.models.network import Network
from dncbm.bcos.models.parts import NORMS, StochasticDepth, halved
from dncbm.bcos.models.vit import sines
from dncbm.errors import InvalidInput, UnknownName
from tests.oracles import bcos_networks as oracle

FINGERPRINTS: dict[str, str] = json.loads(
    (Path(__file__).parent / "state_dicts.json").read_text(encoding="utf-8")
)
"""sha256 of the sorted `key shape dtype` lines of each network of B-cos v2."""

SLIM = {"width": 4, "depths": (1, 1, 1, 1)}
TOKENS = {"width": 8, "depth": 2, "heads": 2}
Oracle = Callable[[oracle.Layers, np.ndarray], oracle.Maps]
TINY: dict[str, tuple[str, dict[str, Any], int, Oracle]] = {
    "resnet": ("resnet18", SLIM, 12, oracle.resnet),
    "bottleneck": (
        "resnext50_32x4d", SLIM | {"groups": 2, "per_group": 32, "b": 1.5}, 12,
        lambda net, image: oracle.resnet(net, image, groups=2),
    ),
    "small": (
        "resnet18", SLIM | {"small_inputs": True, "b": 3.0}, 6,
        lambda net, image: oracle.resnet(net, image, small=True),
    ),
    "antialiased": ("resnet18", SLIM | {"antialiased": True}, 10, oracle.resnet),
    "densenet": ("densenet121", {"width": 4, "growth": 3, "depths": (2, 1)}, 12, oracle.densenet),
    "small densenet": (
        "densenet121", {"width": 4, "growth": 3, "depths": (1, 2), "small_inputs": True}, 6,
        lambda net, image: oracle.densenet(net, image, small=True),
    ),
    "vgg": (
        "vgg11_bnu", {"width": 3, "hidden": 5, "depths": (1, 2)}, 8,
        lambda net, image: oracle.vgg(net, image, depths=(1, 2)),
    ),
    "convnext": (
        "convnext_tiny", {"widths": (4, 6), "depths": (1, 2), "b": 2.5}, 16,
        lambda net, image: oracle.convnext(net, image, batch=False),
    ),
    "convnext_bnu": (
        "convnext_tiny_bnu", {"widths": (4, 6), "depths": (1, 1)}, 8,
        lambda net, image: oracle.convnext(net, image, batch=True),
    ),
    "simple_vit": (
        "simple_vit_ti_patch16_224", TOKENS | {"patch_size": 4, "b": 1.5}, 8,
        lambda net, image: oracle.vit(
            net, image, patch=4, heads=2, strides=(), table=_table(2)
        ),
    ),
    "vitc": (
        "vitc_ti_patch1_14", TOKENS | {"stem": (7, 7, 9)}, 10,
        lambda net, image: oracle.vit(
            net, image, patch=1, heads=2, strides=(2, 1, 2), table=_table(3)
        ),
    ),
}  # fmt: skip
"""A tiny network of each family: name, settings, size of images, explicit matrices."""


def _table(side: int) -> np.ndarray:
    return sines(side, side, 8).double().movedim(2, 0).numpy()


def _random(model: Network, seed: int = 1) -> Network:
    """With norms and scales that matter."""
    draw = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if value.dim() == 1 or key.endswith("layer_scale"):
            value.copy_(0.3 + torch.rand(value.shape, generator=draw))
    return model.double().eval()


def _tiny(family: str, **settings: Any) -> Network:
    name, given, _, _ = TINY[family]
    torch.manual_seed(0)
    return _random(create_model(name, **{"num_classes": 3} | given | settings))


def _images(family: str, n: int = 2) -> Tensor:
    side = TINY[family][2]
    draw = torch.Generator().manual_seed(2)
    return torch.rand(n, 6, side, side, generator=draw, dtype=torch.float64)


def _lines(model: nn.Module) -> dict[str, list[Any]]:
    state = model.state_dict()
    return {key: [list(v.shape), str(v.dtype).removeprefix("torch.")] for key, v in state.items()}


def _fingerprint(lines: dict[str, list[Any]]) -> str:
    texts = sorted(f"{key} {'x'.join(map(str, s))} {t}" for key, (s, t) in lines.items())
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_state_dicts_are_those_of_bcos_v2(name: str) -> None:
    """Keys, shapes and dtypes: released weights load strictly."""
    with torch.device("meta"):
        model = create_model(name)
    assert _fingerprint(_lines(model)) == FINGERPRINTS[name]


def test_the_listing_of_bcos_v2_is_the_one_of_the_fingerprints(shared_data: Path) -> None:
    listing = shared_data.parent / "reference" / "bcos_v2_state_dicts.json"
    if not listing.is_file():
        pytest.skip("needs ../shared/reference, which is not here")
    found = json.loads(listing.read_text(encoding="utf-8"))
    assert {name: _fingerprint(one["keys"]) for name, one in found.items()} == FINGERPRINTS


@pytest.mark.parametrize("family", TINY)
def test_rows_are_the_oracles(family: str) -> None:
    """W(x), positions and biases, class by class, against products of explicit matrices.

    Sums alone see little, as networks without biases are homogeneous but for small constants.
    Seen to fail in every family with `held` taken out of the factors of layers.py (where pixels,
    position and bias of `simple_vit` still summed to the logit), in those with norms of each image
    with it taken out of norms.py, in both ViTs with it taken from q and k or without `added`.
    """
    model, images = _tiny(family), _images(family)[:1]
    _, given, _, explicit = TINY[family]
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    layers = oracle.Layers(state, given.get("b", 2.0), antialiased="antialiased" in given)
    found = explain(model, images, torch.arange(3)[None])
    for i, image in enumerate(images.numpy()):
        wanted = explicit(layers, image)
        rows = found.weights[i].flatten(1).numpy()
        np.testing.assert_allclose(rows, wanted.rows, rtol=1e-7, atol=1e-11 * np.abs(rows).max())
        np.testing.assert_allclose(found.position[i], wanted.place, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(found.bias[i], -np.log(2), rtol=1e-12)
        np.testing.assert_allclose(found.values[i], wanted.value.ravel() - np.log(2), rtol=1e-9)


@pytest.mark.parametrize(
    ("family", "norm"),
    [
        *((family, None) for family in TINY),
        *(("resnet", norm) for norm in NORMS),
        ("vitc", "batch"),
    ],
)
def test_logits_are_sums_and_the_same_in_both_modes(family: str, norm: str | None) -> None:
    """Pixels + position + bias, relative to the sizes of the parts; values to the bit."""
    model, images = _tiny(family, norm=norm), _images(family)
    found = explain(model, images, torch.arange(3).repeat(2, 1))
    parts = found.maps.sum((-2, -1)) + found.position + found.bias
    torch.testing.assert_close(parts, found.values, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        plain = model(images)
    assert torch.equal(found.values, plain)
    assert (found.position != 0).any() == ("vit" in family)


@pytest.mark.parametrize("family", TINY)
def test_modes_agree_to_the_bit_in_float32(family: str) -> None:
    model, images = _tiny(family).float(), _images(family).float()
    with torch.no_grad():
        plain = model(images)
    images.requires_grad_()
    with explanation_mode():
        held = model(images)
    assert torch.equal(model(images), plain)
    assert torch.equal(held, plain)


@pytest.mark.parametrize("family", TINY)
def test_logits_are_those_of_the_maps_before_the_head(family: str) -> None:
    model, images = _tiny(family), _images(family)
    maps = model.features(images)
    assert maps.dim() == 4
    torch.testing.assert_close(model.classify(maps), model(images), rtol=0, atol=0)


def test_positions_are_the_oracles() -> None:
    np.testing.assert_allclose(
        sines(3, 5, 16).movedim(2, 0), oracle.table(16, 3, 5), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("size", [(8, 12), (9, 11), (8, 11), (9, 12)])
def test_strides_of_antialiased_networks_treat_all_pixels_alike(size: tuple[int, int]) -> None:
    """The adjoint of the low-pass is even; that of an ordinary stem's pool is a grid."""
    maps = torch.ones(1, 1, *size, requires_grad=True)
    (even,) = torch.autograd.grad(halved(maps).sum(), maps)
    torch.testing.assert_close(even, torch.full_like(even, 0.25))
    (grid,) = torch.autograd.grad(nn.AvgPool2d(3, 2, 1)(maps).sum(), maps)
    assert grid.unique().numel() > 1


@pytest.mark.parametrize("size", [(8, 12), (9, 11), (8, 11)])
def test_strides_of_antialiased_networks_know_no_left_and_no_top(size: tuple[int, int]) -> None:
    """Seen to fail with (1 2 1)/4 about pixels of even index, for even sizes."""
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(halved(maps.flip(2, 3)), halved(maps).flip(2, 3))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18", "standard_resnet18", "standard_densenet121", "vitc_ti_patch1_14",
        "standard_vitc_ti_patch1_14",
    ],
)  # fmt: skip
def test_antialiasing_changes_no_key_and_no_shape(name: str) -> None:
    size = {"depth": 1} if "vit" in name else {"width": 8, "depths": (1, 1, 1, 1)}
    if "vit" in name:
        size |= {"stem": (8, 16), "width": 16, "heads": 2}
    plain, smooth = create_model(name, **size), create_model(name, antialiased=True, **size)
    assert _lines(plain) == _lines(smooth)
    images = torch.rand(1, plain.in_chans, 36, 44)
    assert plain.eval().features(images).shape == smooth.eval().features(images).shape


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "densenet121"])
def test_ordinary_twins_are_torchvisions(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    if name == "resnet18":  # the rest by its keys alone, which takes no time
        theirs = models.resnet18(num_classes=5).double().eval()
        ours = create_model("standard_resnet18", num_classes=5).double().eval()
        ours.load_state_dict(theirs.state_dict())
        images = torch.rand(2, 3, 48, 40, dtype=torch.float64)
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-10, atol=1e-10)
    with torch.device("meta"):
        ours, theirs = create_model(f"standard_{name}"), getattr(models, name)()
    assert _lines(ours) == _lines(theirs)


def test_logit_bias_is_that_of_the_real_number_of_classes() -> None:
    model = create_model("resnet18", num_classes=10, **SLIM)
    assert model.logit_layer.bias == pytest.approx(-np.log(9))
    assert create_model("standard_resnet18", num_classes=10, **SLIM).logit_layer.bias is None
    assert replace_head(model, 5).logit_layer.bias == pytest.approx(-np.log(4))


@pytest.mark.parametrize("family", TINY)
def test_heads_are_replaced_in_place(family: str) -> None:
    model, images = _tiny(family), _images(family)
    head = model.get_submodule(model.head_path)
    before, maps = model.state_dict(), model.features(images)
    assert replace_head(model, 7) is model
    new = model.get_submodule(model.head_path)
    assert new is not head
    assert (type(new), new.b, new.unit_norm) == (type(head), head.b, head.unit_norm)
    assert model.num_classes == 7
    assert model(images).shape == (2, 7)
    torch.testing.assert_close(model.features(images), maps, rtol=0, atol=0)
    changed = {k for k, v in model.state_dict().items() if v.shape != before[k].shape}
    assert changed == {f"{model.head_path}.linear.weight"}
    found = explain(model, images, 6)
    parts = found.maps.sum((-2, -1)) + found.position + found.bias
    torch.testing.assert_close(parts, found.values, rtol=1e-9, atol=1e-9)


def test_heads_of_ordinary_networks_and_of_image_models() -> None:
    twin = replace_head(create_model("standard_resnet18", num_classes=3, **SLIM), 2).eval()
    assert twin(torch.rand(1, 3, 32, 32)).shape == (1, 2)
    assert twin.logit_layer.bias is None
    wrapped = ImageModel(_tiny("resnet").float(), encoding="inverse")
    assert replace_head(wrapped, 4)(torch.rand(1, 3, 16, 16)).shape == (1, 4)
    with pytest.raises(InvalidInput, match="head of a Sequential is not known"):
        replace_head(nn.Sequential(), 4)
    with pytest.raises(InvalidInput, match="num_classes is 0"):
        replace_head(twin, 0)


def test_stochastic_depth_keeps_the_mean_and_only_trains() -> None:
    layer, x = StochasticDepth(0.25), torch.ones(4000, 1, 1, 1)
    kept = layer(x)
    np.testing.assert_allclose(kept.unique(), [0, 1 / 0.75])
    assert kept.mean() == pytest.approx(1, abs=0.05)
    assert layer.eval()(x) is x
    model = create_model("resnet50_long", **SLIM)
    shares = [m.share for m in model.modules() if isinstance(m, StochasticDepth)]
    np.testing.assert_allclose(shares, [0, 0.1 / 3, 0.2 / 3, 0.1])
    with pytest.raises(InvalidInput, match="stochastic_depth is 1"):
        create_model("resnet18", stochastic_depth=1.0)


def test_all_families_train() -> None:
    for family in TINY:
        model, images = _tiny(family).float().train(), _images(family).float()
        model(images).logsumexp(1).sum().backward()
        gradients = [p.grad for p in model.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients), family


def test_networks_travel_between_processes() -> None:
    for family in TINY:
        model, images = _tiny(family), _images(family)
        copy = pickle.loads(pickle.dumps(model))
        assert torch.equal(copy(images), model(images))


def test_names_and_settings_that_do_not_exist() -> None:
    with pytest.raises(UnknownName, match="Unknown network 'resnet19'.*resnet18"):
        create_model("resnet19")
    with pytest.raises(UnknownName, match="Unknown setting of resnet18 'smal_inputs'.*small_i"):
        create_model("resnet18", smal_inputs=True)
    with pytest.raises(UnknownName, match="Unknown norm 'bacth'.*batch"):
        create_model("resnet18", norm="bacth")
    with pytest.raises(InvalidInput, match="standard_resnet18 is an ordinary network.*'resnet18'"):
        create_model("standard_resnet18", b=1.5)
    with pytest.raises(InvalidInput, match="convnext_tiny has no anti-aliased form"):
        create_model("convnext_tiny", antialiased=True)
    with pytest.raises(InvalidInput, match="B is 0.5"):
        create_model("resnet18", b=0.5)
    with pytest.raises(InvalidInput, match="in_chans is 0"):
        create_model("resnet18", in_chans=0)
    assert set(FINGERPRINTS) <= set(model_names())
    assert "standard_resnet50" in model_names()
    assert "standard_vgg11_bnu" not in model_names()


@pytest.mark.parametrize(
    ("family", "shape", "message"),
    [
        ("resnet", (1, 3, 16, 16), r"\(1, 3, 16, 16\); the rule is \(n, 6, h, w\).*ImageModel"),
        ("vgg", (1, 4, 16, 16), r"in_chans=4"),
        ("convnext", (6, 16, 16), "Add a batch axis"),
        ("densenet", (1, 6, 4, 40), "at least 8. Enlarge"),
        ("simple_vit", (1, 3, 8, 8), "ImageModel"),
        ("simple_vit", (1, 6, 8, 10), "8 x 10 do not divide into patches of 4 x 4"),
    ],
)
def test_images_that_do_not_fit(family: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        _tiny(family)(torch.rand(shape, dtype=torch.float64))
