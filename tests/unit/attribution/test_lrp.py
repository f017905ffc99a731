"""Layer-wise relevance propagation beside its oracle, and what it has no rule for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dncbm.attribution.lrp import lrp
from dncbm.errors import InvalidInput
from tests.oracles import attribution_evaluation as oracle
from tests.unit.attribution._networks import TARGETS, each, images, relus


@pytest.mark.parametrize("epsilon", [1e-9, 0.3])
def test_relevance_is_the_oracles(epsilon: float) -> None:
    torch.manual_seed(0)
    linear = [nn.Linear(105, 9), nn.Linear(9, 8), nn.Linear(8, 3)]
    net = nn.Sequential(
        nn.Flatten(), linear[0], nn.ReLU(), linear[1], nn.ReLU(inplace=True), linear[2]
    ).double()
    weights = [(part.weight.detach().numpy(), part.bias.detach().numpy()) for part in linear]
    found = lrp(net, images(), TARGETS, epsilon=epsilon)
    each(
        found,
        lambda x, k: oracle.lrp(weights, x.ravel(), k, epsilon).reshape(x.shape).sum(axis=0),
        1e-8,
    )


class _Residual(nn.Module):
    """No biases, so that all relevance reaches the input, on one branch or the other."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.branch = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 3, bias=False)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.add(self.branch(x), x))
        x = torch.cat([x.mean((-2, -1)), functional.max_pool2d(x, 5)[:, :, 0, 0] / 2], dim=1)
        return self.head(x)


def _in_place(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


@pytest.mark.parametrize(
    "add", [lambda x, y: x + y, _in_place, torch.add, lambda x, y: x.add_(y), lambda x, y: x - y]
)
def test_sums_of_branches_share_relevance(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = _Residual(add).double()
    for layer in (None, "stem"):
        maps = lrp(net, images(), TARGETS, layer=layer)
        torch.testing.assert_close(
            maps.sum((-2, -1)), net(images()).detach().gather(1, TARGETS), rtol=1e-6, atol=1e-8
        )


def test_functions_of_outputs_are_targets() -> None:
    net = relus()
    mixed = torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]], dtype=torch.float64)
    found = lrp(net, images(), lambda output: output @ mixed)
    single = lrp(net, images(), torch.tensor([[0, 1, 2]] * 2))
    torch.testing.assert_close(found, torch.einsum("nkyx,kt->ntyx", single, mixed))


def test_the_network_is_as_before() -> None:
    net = relus()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = lrp(net, images(), TARGETS)
    torch.testing.assert_close(lrp(net, images(), TARGETS), first)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(not vars(m).get("rule") and not m._forward_hooks for m in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


class _Overwrites(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = x * 2
        functional.relu_(kept)
        return kept.flatten(1)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.flatten(1)

    @staticmethod
    def backward(_ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0].view(2, 3, 5, 7)


class _OfItsOwn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Own.apply(x)


class _Does(nn.Module):
    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        return self.what(x)


def _set(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = x[:, 1] * 2
    return x.flatten(1)


def test_scaled_and_divided_values_keep_relevance() -> None:
    def scaled(x: Tensor) -> Tensor:
        x = x / 2
        x *= 3
        x /= 4
        return -x.flatten(1)

    net = _Does(scaled)
    found = lrp(net, images(), TARGETS)
    torch.testing.assert_close(found.sum((-2, -1)), net(images()).gather(1, TARGETS))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.Sequential(nn.LayerNorm(7), nn.Flatten()), "no rule for layer_norm in LayerNorm '0.0'"),
        (nn.Sequential(nn.Sigmoid(), nn.Flatten()), "no rule for sigmoid in Sigmoid '0.0'"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()), "no rule for batch_norm in BatchNorm2d"),
        (_Overwrites(), "overwrites a value in place"),
        (_Does(lambda x: 1 / (2 + x.abs())), "no rule for abs"),
        (_Does(lambda x: (2 / x).flatten(1)), "no rule for r(true)?div in _Does '0'"),
        (_Does(lambda x: torch.div(x.new_ones(()), x).flatten(1)), "no rule for div"),
        (_Does(lambda x: (x * x).flatten(1)), "no rule for mul"),
        (_Does(_set), "no rule for setitem"),
        (_OfItsOwn(), "no rule for the autograd function _Own"),
    ],
)
def test_steps_without_a_rule_are_named(part: nn.Module, message: str) -> None:
    net = nn.Sequential(part).double()
    with pytest.raises(InvalidInput, match=message):
        lrp(net, images(), 0)


def test_a_bad_epsilon_is_refused() -> None:
    with pytest.raises(InvalidInput, match="epsilon is 0"):
        lrp(relus(), images(), 0, epsilon=0.0)
