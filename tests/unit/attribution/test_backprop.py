"""Guided backpropagation, SmoothGrad and smoothed maps."""

import threading

import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution import backprop, methods
from dncbm.errors import InvalidInput
from dncbm.training.seeding import generator
from tests.oracles import attribution_evaluation as oracle
from tests.unit.attribution._networks import TARGETS, each, images, one, relus


def _perceptron() -> tuple[nn.Sequential, oracle.Weights]:
    torch.manual_seed(0)
    linear = [nn.Linear(105, 9), nn.Linear(9, 8), nn.Linear(8, 3)]
    net = nn.Sequential(
        nn.Flatten(), linear[0], nn.ReLU(), linear[1], nn.ReLU(inplace=True), linear[2]
    ).double()
    return net, [(part.weight.detach().numpy(), part.bias.detach().numpy()) for part in linear]


def test_guided_gradients_are_the_oracles() -> None:
    net, weights = _perceptron()
    found = backprop.guided_backprop(net, images(), TARGETS)
    each(
        found,
        lambda x, k: abs(oracle.guided_backprop(weights, x.ravel(), k).reshape(x.shape)).sum(0),
    )
    assert not torch.allclose(found, methods.gradient(net, images(), TARGETS))


def test_a_layer_is_guided_by_the_relus_after_it_only() -> None:
    net = relus()
    found = backprop.guided_backprop(net, images(), TARGETS, layer="3")
    torch.testing.assert_close(found, methods.gradient(net, images(), TARGETS, layer="3"))
    found = backprop.guided_backprop(net, images(), TARGETS, layer="1")
    tail = backprop.guided_backprop(net[2:], net[:2](images()), TARGETS)
    torch.testing.assert_close(found, tail)


def test_guiding_reaches_networks_inside_functions() -> None:
    net, _ = _perceptron()
    found = backprop.guided_backprop(lambda x: net(x) * 2, images(), TARGETS)
    torch.testing.assert_close(found, 2 * backprop.guided_backprop(net, images(), TARGETS))


class _Meanwhile(nn.Module):
    """Lets another thread explain the same network, halfway through."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.networks = [network]  # in a list, so that it is no part of this one
        self.found: list[Tensor] = []

    def forward(self, features: Tensor) -> Tensor:
        def explain() -> None:
            self.found.append(methods.gradient(self.networks[0], images(), TARGETS))

        other = threading.Thread(target=explain)
        other.start()
        other.join()
        return features


def test_other_threads_and_later_calls_are_not_guided() -> None:
    net, _ = _perceptron()
    expected = methods.gradient(net, images(), TARGETS)
    meanwhile = _Meanwhile(net)
    slow = nn.Sequential(*net[:3], meanwhile, *net[3:])
    guided = backprop.guided_backprop(slow, images(), TARGETS)
    torch.testing.assert_close(meanwhile.found[0], expected)
    torch.testing.assert_close(guided, backprop.guided_backprop(net, images(), TARGETS))
    torch.testing.assert_close(methods.gradient(net, images(), TARGETS), expected)


def test_guiding_can_be_entered_again_and_ends_with_an_error() -> None:
    net, _ = _perceptron()
    expected = backprop.guided_backprop(net, images(), TARGETS)
    with backprop.guided_relus() as outer:
        torch.testing.assert_close(backprop.guided_backprop(net, images(), TARGETS), expected)
        assert len(outer) == 2
    plain = methods.gradient(net, images(), TARGETS)
    with pytest.raises(InvalidInput, match="Class 9 does not exist"):
        backprop.guided_backprop(net, images(), 9)
    torch.testing.assert_close(methods.gradient(net, images(), TARGETS), plain)


def test_smooth_grad_is_the_oracles() -> None:
    net, draw = relus(), generator(4, "smooth_grad")
    net[1], net[3] = nn.Softplus(), nn.Tanh()
    noises = [
        torch.randn(3, 5, 7, generator=draw, dtype=torch.float64).numpy() for _ in range(3)
    ]  # fmt: skip
    found = backprop.smooth_grad(net, images(), TARGETS, samples=3, noise=0.2, seed=4)
    each(found, lambda x, k: oracle.smooth_grad(one(net, k), x, noises, 0.2), 1e-6)
    exact = backprop.smooth_grad(net, images(), TARGETS, layer="1", samples=2, noise=0.0)
    torch.testing.assert_close(exact, methods.gradient(net, images(), TARGETS, layer="1"))


def test_smoothed_maps_are_maps_under_the_oracles_gaussian() -> None:
    net = relus()
    for name in ("integrated_gradients", "input_x_gradient"):
        plain = getattr(methods, name)(net, images(), TARGETS)
        smooth = getattr(backprop, f"smoothed_{name}")
        for side, options in ((3, {"smooth": 3}), (1, {})):
            found = smooth(net, images(), TARGETS, **options)
            torch.testing.assert_close(
                found[1, 0], torch.from_numpy(oracle.gaussian(plain[1, 0].numpy(), side))
            )


@pytest.mark.parametrize(("size", "side"), [(448, 129), (56, 17), (28, 9), (14, 5), (7, 3), (2, 1)])
def test_the_usual_kernel_is_that_of_the_paper(size: int, side: int) -> None:
    assert backprop.kernel_side(torch.zeros(1, 1, size, size + 1)) == side


def test_bad_calls_are_refused() -> None:
    net = relus()
    with pytest.raises(InvalidInput, match="calls no nn.ReLU module"):
        backprop.guided_backprop(net[:1], images(), lambda output: output.sum((1, 2, 3))[:, None])
    with pytest.raises(InvalidInput, match="0 samples"):
        backprop.smooth_grad(net, images(), samples=0)
    with pytest.raises(InvalidInput, match="kernel is 2"):
        backprop.smoothed_input_x_gradient(net, images(), smooth=2)
