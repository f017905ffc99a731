from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution import methods
from dncbm.bcos.explain import explain
from dncbm.bcos.layers import BcosConv2d
from dncbm.errors import InvalidInput
from tests.oracles import attribution as oracle

TARGETS = torch.tensor([[2, 0], [1, 1]])


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Softplus(), nn.Conv2d(4, 5, 2), nn.Tanh(),
        nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip
    return net.double()


def _images() -> Tensor:
    return torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _of(net: Callable[[Tensor], Tensor], k: int) -> Callable[[np.ndarray], float]:
    return lambda x: float(net(torch.from_numpy(x)[None])[0, k])


def _each(found: Tensor, slow: Callable[[np.ndarray, int], np.ndarray]) -> None:
    with torch.no_grad():
        for i, image in enumerate(_images().numpy()):
            for t, k in enumerate(TARGETS[i].tolist()):
                np.testing.assert_allclose(found[i, t], slow(image, k), rtol=1e-5, atol=1e-7)


def test_gradients_are_the_oracles() -> None:
    net = _network()
    found = methods.gradient(net, _images(), TARGETS)
    _each(found, lambda x, k: np.abs(oracle.slope(_of(net, k), x)).sum(axis=0))
    found = methods.input_x_gradient(net, _images(), TARGETS)
    _each(found, lambda x, k: (x * oracle.slope(_of(net, k), x)).sum(axis=0))


def test_integrated_gradients_are_the_oracles() -> None:
    net, baseline = _network(), torch.full((1, 3, 5, 6), 0.3, dtype=torch.float64)
    found = methods.integrated_gradients(net, _images(), TARGETS, baseline=baseline, steps=3)
    _each(found, lambda x, k: oracle.integrated(_of(net, k), x, baseline[0].numpy(), 3))
    many = methods.integrated_gradients(net, _images(), TARGETS, baseline=0.3, steps=200)
    change = net(_images()) - net(baseline)
    torch.testing.assert_close(many.sum((-2, -1)), change.gather(1, TARGETS), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["grad_cam", "layer_cam"])
def test_maps_of_a_layer_are_the_oracles(name: str) -> None:
    net = _network()
    found = getattr(methods, name)(net, _images(), TARGETS, layer=net[1])

    def slow(x: np.ndarray, k: int) -> np.ndarray:
        maps = net[:2](torch.from_numpy(x)[None])[0].numpy()
        return getattr(oracle, name)(_of(net[2:], k), maps)

    _each(found, slow)


def test_bcos_maps_are_those_of_the_explanation() -> None:
    net = nn.Sequential(BcosConv2d(3, 4, 3), nn.Flatten()).double().eval()
    expected = explain(net, _images(), TARGETS).maps
    assert torch.equal(methods.bcos(net, _images(), TARGETS), expected)


def test_the_best_class_is_explained_where_none_is_asked_for() -> None:
    net = _network()
    best = net(_images()).argmax(dim=1)
    for name in ("gradient", "input_x_gradient", "integrated_gradients"):
        method: Any = getattr(methods, name)
        torch.testing.assert_close(method(net, _images()), method(net, _images(), best))


@pytest.mark.parametrize("name", ["input_x_gradient", "integrated_gradients", "grad_cam"])
def test_maps_train_all_weights(name: str) -> None:
    """Those behind the explained layer, through the channel weights, and those before it."""
    net = _network()
    options = {"layer": net[1]} if name == "grad_cam" else {}
    maps = getattr(methods, name)(net, _images(), TARGETS, create_graph=True, **options)
    maps.square().sum().backward()
    for parameter in (net[0].weight, net[2].weight, net[5].weight):
        assert parameter.grad is not None
        assert bool(parameter.grad.any())


def test_nothing_is_left_behind() -> None:
    net, images = _network(), _images()
    with torch.inference_mode():
        for name in ("gradient", "input_x_gradient", "integrated_gradients", "grad_cam"):
            options = {"layer": net[1]} if name == "grad_cam" else {}
            assert not getattr(methods, name)(net, images, 0, **options).requires_grad
    assert not net[1]._forward_hooks
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: methods.integrated_gradients(net, x, steps=0), "steps is 0"),
        (lambda net, x: methods.grad_cam(net, x, layer=nn.Tanh()), "was called no times"),
        (lambda net, x: methods.grad_cam(net, x, layer=net[4]), r"gave shape \(2, 20\)"),
        (lambda net, x: methods.smoothed(x, 2), "is 2; the rule is odd"),
        (lambda net, x: methods.gradient(net, x, 3), "Class 3 does not exist"),
    ],
)
def test_bad_calls_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call(_network(), _images())
