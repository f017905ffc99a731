import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.bcos.explain import cosines, explain
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import BcosConv2d, LogitLayer
from dncbm.bcos.mode import added, explaining, explanation_mode, held
from dncbm.bcos.norms import BatchNormUncentered2d, GroupNorm2d
from dncbm.errors import InvalidInput
from tests.oracles import bcos as oracle


class Positioned(nn.Module):
    """Adds something to every place."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + added(self.table, x, "position")


def _network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        BcosConv2d(6, 5, 3, padding=1, b=2.0),
        GroupNorm2d(5),
        Positioned((5, 6, 6)),
        BcosConv2d(5, 4, 3, stride=2, b=1.5, bias=True, unit_norm=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        LogitLayer(bias=-1.25),
    )
    return net.double().eval()


def _images(n: int = 3, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, 6, 6, 6, generator=draw, dtype=torch.float64)


def _oracle(net: nn.Sequential, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W (k, pixels) of the whole network, and what positions and biases add to each class."""
    first, norm, place, last = net[0], net[1], net[2], net[3]
    weight = first.linear.weight.detach().numpy()
    one, _, shape = oracle.conv(image, weight, None, padding=1, b=2.0)
    maps = (one @ image.ravel()).reshape(shape)
    scale = np.repeat(norm.weight.detach().numpy(), 36)
    two = oracle.normalising(maps, [list(range(180))], scale, centred=True, eps=norm.eps)
    table = place.table.detach().numpy().ravel()
    maps = (two @ maps.ravel() + table).reshape(shape)
    three, offset, shape = oracle.conv(
        maps, last.linear.weight.detach().numpy(), last.linear.bias.detach().numpy(),
        stride=2, b=1.5, unit_norm=False,
    )  # fmt: skip
    mean = np.kron(np.eye(4), np.full((1, shape[1] * shape[2]), 1 / (shape[1] * shape[2])))
    return mean @ three @ two @ one, mean @ three @ table, mean @ offset - 1.25


def test_a_networks_rows_are_the_oracles() -> None:
    """Products of explicit matrices; sums alone would be blind (see test_layers)."""
    net, images = _network(), _images()
    found = explain(net, images, torch.arange(4).repeat(3, 1))
    torch.testing.assert_close(found.values, net(images).detach())
    for i, image in enumerate(images.numpy()):
        weights, position, bias = _oracle(net, image)
        np.testing.assert_allclose(found.weights[i].flatten(1), weights, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(found.position[i], position, rtol=1e-9)
        np.testing.assert_allclose(found.bias[i], bias, rtol=1e-9)
        maps = (weights * image.ravel()).reshape(4, 6, 6, 6).sum(axis=1)
        np.testing.assert_allclose(found.maps[i], maps, rtol=1e-9, atol=1e-13)
    total = found.maps.sum((-2, -1)) + found.position + found.bias
    torch.testing.assert_close(total, found.values, rtol=1e-12, atol=1e-12)


def test_targets_are_classes_lists_tables_or_functions() -> None:
    net, images = _network(), _images()
    table = torch.tensor([[2, 0], [1, 1], [3, 2]])
    both = explain(net, images, table)
    assert both.weights.shape == (3, 2, 6, 6, 6)
    one = explain(net, images, 3)
    torch.testing.assert_close(one.weights[2, 0], both.weights[2, 0])
    each = explain(net, images, [2, 1, 3])
    torch.testing.assert_close(each.maps[:, 0], both.maps[:, 0])
    free = explain(net, images, lambda logits: logits[:, :1] - logits[:, 1:3])
    parts = explain(net, images, torch.tensor([[0, 1, 2]] * 3)).weights
    torch.testing.assert_close(free.weights, parts[:, :1] - parts[:, 1:])
    best = explain(net, images)
    assert torch.equal(best.values[:, 0], net(images).detach().amax(dim=1))


def test_a_batch_is_explained_image_by_image() -> None:
    net, images = _network(), _images(4)
    together = explain(net, images, 1)
    for i in range(4):
        alone = explain(net, images[i : i + 1], 1)
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], many[i])


def test_values_are_the_same_in_and_out_of_the_mode() -> None:
    net, images = _network(), _images()
    outside = net(images)
    with explanation_mode() as terms:
        assert torch.equal(net(images), outside)
    assert [term.kind for term in terms] == ["position", "bias", "bias"]
    assert torch.equal(net(images), outside)


def test_cosines_are_what_their_contributions_sum_to() -> None:
    """With the gradient of the embedding's length they would sum to 0."""
    torch.manual_seed(2)
    net = nn.Sequential(BcosConv2d(6, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    texts, images = torch.randn(3, 5, dtype=torch.float64), _images()
    found = explain(net, images, lambda embeddings: cosines(embeddings, texts))
    expected = nn.functional.cosine_similarity(net(images)[:, None], texts[None], dim=-1)
    torch.testing.assert_close(found.values, expected.detach())
    torch.testing.assert_close(found.maps.sum((-2, -1)), found.values)
    assert float(found.values.abs().min()) > 1e-3


def test_results_share_nothing() -> None:
    net, images = _network(), _images()
    first = explain(net, images, 0)
    before = [part.clone() for part in first]
    explain(net, images, 1)
    images.mul_(2)
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))
    assert all(not part.requires_grad for part in first)
    assert images.grad is None
    assert all(p.grad is None for p in net.parameters())


def test_modes_nest_and_end_with_an_exception() -> None:
    with explanation_mode() as outer:
        added(torch.ones(2), torch.ones(3), "bias")
        with explanation_mode() as inner:
            added(torch.ones(2), torch.ones(3), "bias")
        assert explaining()
        assert (len(outer), len(inner)) == (1, 1)
    with pytest.raises(RuntimeError, match="boom"), explanation_mode():
        raise RuntimeError("boom")
    assert not explaining()
    value = torch.ones(2, requires_grad=True)
    assert held(value) is value


def test_threads_never_see_each_others_mode() -> None:
    inside, done = threading.Event(), threading.Event()

    def explains() -> None:
        with explanation_mode():
            inside.set()
            assert done.wait(20)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(explains)
        assert inside.wait(20)
        seen = explaining()
        done.set()
        waiting.result()
    assert not seen


def test_concurrent_explanations_equal_sequential_ones() -> None:
    net = _network()
    batches = [_images(2, seed) for seed in range(8)]
    alone = [explain(net, batch, 1) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        plain = [pool.submit(net, batch) for batch in batches]
        found = list(pool.map(lambda batch: explain(net, batch, 1), batches))
    for one, other, forward in zip(alone, found, plain, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        torch.testing.assert_close(forward.result()[:, 1], one.values[:, 0])


COMPILED = """
import torch
from torch import nn
from dncbm.bcos.explain import explain
from tests.unit.bcos.test_explain import _images, _network

net, images = _network(), _images()
expected = explain(net, images, 2)
compiled = torch.compile(net, backend="aot_eager")
compiled(images)
for model in (compiled, nn.Sequential(compiled).eval()):
    for one, other in zip(explain(model, images, 2), expected, strict=True):
        torch.testing.assert_close(one, other)
torch.testing.assert_close(compiled(images), net(images))
"""


def test_compiled_networks_are_explained_alike() -> None:
    """A part that is compiled by itself too: what it adds would be lost within its graph.

    In a process without the type checks of the tests, which the compiler does not understand.
    """
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_explanations_work_where_nothing_has_gradients() -> None:
    net, images = _network().requires_grad_(False), _images()
    expected = explain(net, images, 1)
    with torch.no_grad():
        assert torch.equal(explain(net, images, 1).maps, expected.maps)
    with torch.inference_mode():
        assert torch.equal(explain(net, images, 1).maps, expected.maps)


def test_models_with_an_encoding_take_images() -> None:
    net = _network()
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    model = ImageModel(net, encoding="inverse").eval()
    found = explain(model, images, 0)
    assert torch.equal(found.inputs, torch.cat([images, 1 - images], dim=1))
    torch.testing.assert_close(found.maps, explain(net, found.inputs, 0).maps)


def test_a_loss_on_maps_trains_the_network() -> None:
    net, images = _network().train(), _images()
    found = explain(net, images, 0, create_graph=True)
    found.maps.relu().sum().backward()
    for name, parameter in net.named_parameters():
        if name.startswith(("0.", "1.", "3.linear.weight")):
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name


def test_targets_that_the_input_does_not_reach_have_empty_maps() -> None:
    found = explain(_network(), _images(), lambda y: y.detach().requires_grad_() * 2)
    assert not found.weights.any()
    assert not found.bias.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: explain(net, x[0]), r"shape \(6, 6, 6\); the rule is \(n, channels"),
        (lambda net, x: explain(net, x[:0]), r"with n > 0"),
        (lambda net, x: explain(net, x * float("nan")), "not finite"),
        (lambda net, x: explain(net.train(), x), r"Call model.eval\(\)"),
        (lambda net, x: explain(net, x, 4), "Class 4 does not exist; the model has 0 to 3"),
        (lambda net, x: explain(net, x, [0, -1, 2]), "Class -1 does not exist"),
        (lambda net, x: explain(net, x, [0, 1]), r"Targets have shape \(2, 1\) for 3 images"),
        (lambda net, x: explain(net, x, lambda y: y[:, 0]), r"gave shape \(3,\) for 3 images"),
        (
            lambda net, x: explain(net[:4].eval(), x),
            r"output has shape \(3, 4, 2, 2\), not \(n, k\)",
        ),
    ],
)
def test_bad_calls_are_refused(call: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call(_network(), _images())  # type: ignore[operator]


def test_running_statistics_stay_as_they_are() -> None:
    net = nn.Sequential(BcosConv2d(6, 4, 1), BatchNormUncentered2d(4), nn.Flatten()).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    explain(net, _images().float(), 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
