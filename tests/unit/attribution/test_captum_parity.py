"""The same numbers as captum where it has the method, and a gradient where captum drops it."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution.catalogue import METHODS
from tests.unit.attribution._networks import TARGETS, images, relus

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    attr = pytest.importorskip("captum.attr")


@pytest.fixture(autouse=True)
def _captums_own_warnings() -> Iterator[None]:
    """Of required gradients that it sets, and of hooks on modules."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def _net() -> _Net:
    return _Net().double().eval()


def _captum(explainer: Any, **options: Any) -> Tensor:
    """Maps of both targets, summed over channels."""
    found = [
        explainer.attribute(images(), target=TARGETS[:, t], **options).detach().sum(dim=1)
        for t in range(2)
    ]
    return torch.stack(found, dim=1)


def _ours(name: str, net: nn.Module, **options: Any) -> Tensor:
    return METHODS[name].function(net, images(), TARGETS, **options)


def test_methods_at_the_input_are_captums() -> None:
    net = _net()
    torch.testing.assert_close(_ours("input_x_gradient", net), _captum(attr.InputXGradient(net)))
    torch.testing.assert_close(_ours("gradient", net), _captum(attr.Saliency(net)))
    torch.testing.assert_close(
        _ours("integrated_gradients", net, baseline=0.1, steps=7),
        _captum(attr.IntegratedGradients(net), baselines=0.1, n_steps=7, method="riemann_middle"),
    )
    signed = [attr.GuidedBackprop(net).attribute(images(), target=TARGETS[:, t]) for t in range(2)]
    torch.testing.assert_close(
        _ours("guided_backprop", net), torch.stack(signed, dim=1).abs().sum(dim=2)
    )


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (4, 3), (5, 1)])
def test_occlusion_is_captums(window: int, stride: int) -> None:
    net = _net()
    theirs = _captum(
        attr.Occlusion(net), sliding_window_shapes=(3, window, window), strides=(3, stride, stride)
    )
    theirs = theirs.double() / 3  # the same for each channel, in single precision
    ours = _ours("occlusion", net, window=window, stride=stride)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_methods_at_a_layer_are_captums() -> None:
    net = _net()
    torch.testing.assert_close(
        _ours("grad_cam", net, layer="features.3"),
        _captum(attr.LayerGradCam(net, net.features[3]), relu_attributions=True),
    )
    torch.testing.assert_close(
        _ours("input_x_gradient", net, layer="features.3"),
        _captum(attr.LayerGradientXActivation(net, net.features[3])),
    )


def test_relevance_is_captums() -> None:
    net = _net()
    torch.testing.assert_close(_ours("lrp", net), _captum(attr.LRP(net)), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        _ours("lrp", net, layer="features.3"),
        _captum(attr.LayerLRP(net, net.features[3])),
        rtol=1e-6,
        atol=1e-8,
    )


def test_relevance_of_residual_sums_is_not_doubled_as_captums_is() -> None:
    class _Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1, bias=False)
            self.last = nn.Linear(105, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.first(x) + x).flatten(1))

    net = _Twice().double()
    values = net(images()).detach().gather(1, TARGETS)
    torch.testing.assert_close(_ours("lrp", net).sum((-2, -1)), values, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(_captum(attr.LRP(net)).sum((-2, -1)), values, rtol=0.05)


def test_the_gradient_of_grad_cam_is_whole_where_captums_is_cut_off() -> None:
    net = relus()
    net[3] = nn.Tanh()
    theirs = attr.LayerGradCam(net, net[1]).attribute(images(), target=0)
    assert theirs.requires_grad  # which is no proof
    theirs.square().sum().backward()
    assert net[0].weight.grad is not None
    assert net[5].weight.grad is None  # the weights of channels were constants
    truncated = net[0].weight.grad.clone()

    net.zero_grad(set_to_none=True)
    whole = attr.LayerGradCam(net, net[1]).attribute(
        images(), target=0, grad_kwargs={"create_graph": True}, relu_attributions=True
    )
    whole.square().sum().backward()
    expected = {name: value.grad.clone() for name, value in net.named_parameters()
                if value.grad is not None}  # fmt: skip

    net.zero_grad(set_to_none=True)
    ours = METHODS["grad_cam"].function(net, images(), 0, layer="1", create_graph=True)
    ours.square().sum().backward()
    for name in ("0.weight", "2.weight", "5.weight"):
        torch.testing.assert_close(net.get_parameter(name).grad, expected[name])
        assert bool(expected[name].any())
    assert not torch.allclose(net[0].weight.grad, truncated)
