from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.bcos.explain import explain
from dncbm.bcos.inputs import ImageModel, inverse, negated
from dncbm.bcos.layers import BcosConv2d, BcosLinear, LogitLayer, logit_bias
from dncbm.errors import InvalidInput, UnknownName
from tests.oracles import bcos as oracle

CONVS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "1x1 with stride": {"kernel_size": 1, "stride": 2},
    "tuple kernel and padding": {"kernel_size": (3, 2), "padding": (1, 0), "stride": (1, 2)},
    "dilated": {"kernel_size": 3, "dilation": (2, 1), "padding": 2},
    "dilated max-out": {"kernel_size": 3, "dilation": 2, "max_out": 2},
    "groups": {"kernel_size": 3, "groups": 2, "padding": 1},
    "groups max-out": {"kernel_size": 2, "groups": 2, "max_out": 3},
    "depthwise": {"kernel_size": 3, "groups": 4, "padding": 1},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": 2, "padding_mode": "replicate"},
    "circular": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"},
    "raw weights": {"kernel_size": 3, "unit_norm": False},
    "raw with bias": {"kernel_size": 3, "unit_norm": False, "bias": True, "padding": 1},
    "bias and max-out": {"kernel_size": 2, "bias": True, "max_out": 2},
}


def _conv(settings: dict[str, Any], b: float) -> tuple[BcosConv2d, Tensor]:
    torch.manual_seed(1)
    layer = BcosConv2d(4, 8, b=b, **settings).double().eval()
    return layer, torch.randn(2, 4, 6, 5, dtype=torch.float64)


def _matrix(layer: BcosConv2d, x: Tensor) -> tuple[np.ndarray, np.ndarray, tuple]:
    conv = layer.linear
    bias = None if conv.bias is None else conv.bias.detach().numpy()
    return oracle.conv(
        x.numpy(), conv.weight.detach().numpy(), bias, stride=conv.stride, padding=conv.padding,
        dilation=conv.dilation, groups=conv.groups, padding_mode=conv.padding_mode, b=layer.b,
        max_out=layer.max_out, unit_norm=layer.unit_norm,
    )  # fmt: skip


@pytest.mark.parametrize("b", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("name", CONVS)
def test_convolutions_and_their_rows_are_the_oracles(name: str, b: float) -> None:
    """W(x) itself, as sums are blind: without a bias y = ∇y·x whether or not factors are held.

    Seen to fail at B > 1, in every case, when `held` returned its argument.
    """
    layer, x = _conv(CONVS[name], b)
    with torch.no_grad():
        found = layer(x)
    picked = torch.randperm(found[0].numel(), generator=torch.Generator().manual_seed(2))[:12]
    explained = explain(layer, x, lambda y: y.flatten(1)[:, picked])
    for i, image in enumerate(x):
        matrix, offset, shape = _matrix(layer, image)
        assert found[i].shape == shape
        expected = matrix @ image.numpy().ravel() + offset
        np.testing.assert_allclose(found[i].numpy().ravel(), expected, rtol=1e-9, atol=1e-12)
        rows = explained.weights[i].flatten(1).numpy()
        np.testing.assert_allclose(rows, matrix[picked], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(explained.bias[i], offset[picked], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("b", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(
    "settings", [{}, {"max_out": 3}, {"unit_norm": False, "bias": True}, {"unit_norm": False}]
)
def test_linear_layers_and_their_rows_are_the_oracles(settings: dict[str, Any], b: float) -> None:
    """Seen to fail at B > 1 when `held` returned its argument."""
    torch.manual_seed(1)
    layer = BcosLinear(5, 4, b=b, **settings).double().eval()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    found = layer(x)
    # rows of tokens look like one-channel images to `explain`
    net = nn.Sequential(nn.Flatten(1, 2), layer).eval()
    explained = explain(net, x[:, None], lambda y: y.flatten(1))
    weight, bias = layer.linear.weight.detach().numpy(), layer.linear.bias
    for i in range(2):
        for token in range(3):
            matrix, offset = oracle.linear(
                x[i, token].numpy(), weight, None if bias is None else bias.detach().numpy(),
                b=b, max_out=layer.max_out, unit_norm=layer.unit_norm,
            )  # fmt: skip
            expected = matrix @ x[i, token].numpy() + offset
            np.testing.assert_allclose(found[i, token].detach(), expected, rtol=1e-9)
            rows = explained.weights[i].view(3, 4, 3, 5)[token]
            np.testing.assert_allclose(rows[:, token], matrix, rtol=1e-9, atol=1e-12)
            others = [t for t in range(3) if t != token]
            assert not rows[:, others].any()
            biases = explained.bias[i].view(3, 4)[token]
            np.testing.assert_allclose(biases, offset, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("b", [1.5, 2.0])
def test_gradients_are_those_of_the_formula(b: float) -> None:
    layer, x = _conv(CONVS["groups"], b)
    image = x[:1].requires_grad_()
    assert torch.autograd.gradcheck(layer, (image,))
    assert torch.autograd.gradgradcheck(layer, (image,), fast_mode=True)


@pytest.mark.parametrize("b", [1.5, 2.0])
@pytest.mark.parametrize("name", ["plain", "groups max-out", "raw with bias"])
def test_values_do_not_depend_on_gradients(name: str, b: float) -> None:
    """Without them parts of the output are worked on in place."""
    layer, x = _conv(CONVS[name], b)
    with_graph = layer(x).detach()
    with torch.no_grad():
        assert torch.equal(layer(x), with_graph)
        assert layer(x[:0]).shape == (0, *with_graph.shape[1:])


def test_b_can_be_a_tensor() -> None:
    layer, x = _conv(CONVS["plain"], 2.5)
    fixed = layer(x)
    layer.b = nn.Parameter(torch.tensor(2.5, dtype=torch.float64))  # type: ignore[assignment]
    torch.testing.assert_close(layer(x), fixed)
    layer(x).sum().backward()
    assert layer.b.grad is not None  # type: ignore[attr-defined]


def test_zeros_have_finite_gradients() -> None:
    for layer, shape in ((BcosConv2d(3, 2, 3), (1, 3, 4, 4)), (BcosLinear(4, 2), (1, 4))):
        x = torch.zeros(shape, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad is not None
        assert bool(torch.isfinite(x.grad).all())
        layer.linear.weight.data[0] = 0
        assert bool(torch.isfinite(layer(torch.ones(shape))).all())


def test_logits_are_scaled_and_shifted() -> None:
    logits = torch.randn(3, 4)
    assert torch.equal(LogitLayer()(logits), logits)
    shifted = LogitLayer(temperature=2.0, bias=logit_bias(4))(logits)
    torch.testing.assert_close(shifted, logits / 2 - float(np.log(3)))
    assert logit_bias(1) == 0
    assert torch.sigmoid(torch.tensor(logit_bias(1000))) == pytest.approx(1 / 1000)


def test_images_become_six_channels() -> None:
    images = torch.rand(2, 3, 4, 4)
    network = nn.Identity()
    assert torch.equal(ImageModel(network, encoding="inverse")(images), inverse(images))
    assert torch.equal(ImageModel(network, encoding="negated")(images), negated(images))
    assert torch.equal(inverse(images)[:, 3:], 1 - images)
    mean, deviation = torch.rand(3, 1, 1), torch.rand(3, 1, 1) + 0.5
    both = torch.cat([mean, 1 - mean]), torch.cat([deviation, deviation])
    normalised = (inverse(images) - both[0]) / both[1]
    torch.testing.assert_close(negated((images - mean) / deviation), normalised)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BcosLinear(3, 2, b=0.5), "B is 0.5; the rule is a number of at least 1"),
        (lambda: BcosConv2d(3, 2, b=float("nan")), "B is nan"),
        (lambda: BcosConv2d(3, 2, max_out=0), "max_out is 0"),
        (lambda: inverse(torch.rand(2, 1, 4, 4)), r"shape \(2, 1, 4, 4\); the rule is"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(UnknownName, match="input encoding"):
        ImageModel(nn.Identity(), encoding="other")
