import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.bcos import norms
from dncbm.bcos.explain import explain
from dncbm.bcos.mode import explanation_mode
from dncbm.errors import InvalidInput
from tests.oracles.bcos import normalising

C, H, W = 4, 3, 2
PLACES = np.arange(C * H * W).reshape(C, H, W)
OF_AN_IMAGE: dict[str, tuple[Any, list[list[int]]]] = {
    "layer": (norms.GroupNorm2d(C), [PLACES.ravel().tolist()]),
    "groups": (norms.GroupNorm2d(C, groups=2), PLACES.reshape(2, -1).tolist()),
    "instance": (norms.GroupNorm2d(C, groups=C), [channel.ravel().tolist() for channel in PLACES]),
    "position": (norms.PositionNorm2d(C), PLACES.reshape(C, -1).T.tolist()),
}  # fmt: skip
OF_BATCHES = [norms.BatchNormUncentered2d, norms.AllNormUncentered2d]


def _images(n: int = 3) -> Tensor:
    drawn = torch.randn(n, C, H, W, generator=torch.Generator().manual_seed(3))
    return drawn.double() * 2 + 1


def _with_affine(norm: Any) -> Any:
    torch.manual_seed(4)
    norm = norm.double()
    norm.weight.data.uniform_(0.5, 2)
    norm.bias = nn.Parameter(torch.randn(norm.weight.shape, dtype=torch.float64))
    return norm


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", OF_AN_IMAGE)
def test_norms_within_an_image_are_the_oracles(name: str, centred: bool) -> None:
    """The matrix too: seen to fail when `held` returned its argument."""
    norm, members = OF_AN_IMAGE[name]
    norm = _with_affine(norm).eval()
    norm.centred = centred
    images = _images()
    picked = list(range(0, C * H * W, 5))
    found = explain(norm, images, lambda y: y.flatten(1)[:, picked])
    scale = np.repeat(norm.weight.detach().numpy(), H * W)
    bias = np.repeat(norm.bias.detach().numpy(), H * W)
    for i, image in enumerate(images.numpy()):
        matrix = normalising(image, members, scale, centred=centred, eps=norm.eps)
        expected = matrix @ image.ravel() + bias
        np.testing.assert_allclose(norm(images)[i].detach().numpy().ravel(), expected)
        rows = found.weights[i].flatten(1).numpy()
        np.testing.assert_allclose(rows, matrix[picked], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.bias[i], bias[picked])


def test_layer_norm_is_torchs_and_its_rows_are_the_oracles() -> None:
    """Seen to fail when `held` returned its argument."""
    norm = _with_affine(norms.LayerNorm(5)).eval()
    tokens = torch.randn(2, 1, 3, 5, dtype=torch.float64) * 3 + 1
    found = explain(norm, tokens, lambda y: y.flatten(1))
    plain = nn.LayerNorm(5).double()
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(found.values, plain(tokens).flatten(1))
    members = [list(range(start, start + 5)) for start in (0, 5, 10)]
    scale = np.tile(norm.weight.detach().numpy(), 3)
    for i, image in enumerate(tokens.numpy()):
        matrix = normalising(image, members, scale, centred=True, eps=norm.eps)
        np.testing.assert_allclose(found.weights[i].flatten(1), matrix, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.bias[i].view(3, 5)[1], norm.bias.detach())


@pytest.mark.parametrize("make", OF_BATCHES)
def test_norms_over_batches_divide_by_the_biased_deviation(make: Any) -> None:
    norm = _with_affine(make(C))
    reach = (0, 2, 3) if make is norms.BatchNormUncentered2d else (0, 1, 2, 3)
    expected = np.ones(norm.running_var.shape)
    for seed in range(3):
        torch.manual_seed(seed)
        batch = torch.randn(2, C, H, W, dtype=torch.float64) + 2
        variance = batch.numpy().var(axis=reach)
        expected = 0.9 * expected + 0.1 * variance
        found = norm(batch).detach().numpy()
        shape = (-1, 1, 1)
        scale = norm.weight.detach().numpy().reshape(shape)
        deviation = np.sqrt(np.reshape(variance, shape) + norm.eps)
        bias = norm.bias.detach().numpy().reshape(shape)
        np.testing.assert_allclose(found, batch.numpy() / deviation * scale + bias)
    np.testing.assert_allclose(norm.running_var, expected)
    assert not norm.running_mean.any()
    assert int(norm.num_batches_tracked) == 3
    norm.eval()
    deviation = np.sqrt(expected.reshape(shape) + norm.eps)
    np.testing.assert_allclose(
        norm(batch).detach(), batch.numpy() / deviation * scale + bias, rtol=1e-12
    )


@pytest.mark.parametrize("make", OF_BATCHES)
def test_without_momentum_the_running_variance_is_the_mean(make: Any) -> None:
    norm = make(C, momentum=None).double()
    batches = [_images(2) * scale for scale in (1.0, 2.0, 3.0)]
    for batch in batches:
        norm(batch)
    reach = (0, 2, 3) if make is norms.BatchNormUncentered2d else (0, 1, 2, 3)
    mean = np.mean([batch.numpy().var(axis=reach) for batch in batches], axis=0)
    np.testing.assert_allclose(norm.running_var, np.reshape(mean, norm.running_var.shape))


@pytest.mark.parametrize("make", OF_BATCHES)
def test_gradients_in_training_are_those_of_the_formula(make: Any) -> None:
    norm, images = _with_affine(make(C)), _images().requires_grad_()
    assert torch.autograd.gradcheck(norm, (images,))
    assert torch.autograd.gradgradcheck(norm, (images,))


@pytest.mark.parametrize("make", OF_BATCHES)
def test_in_training_variances_are_held_in_the_mode_alone(make: Any) -> None:
    """Else the row of one image would hold pixels of the others."""
    norm, images = make(C).double(), _images().requires_grad_()
    with explanation_mode():
        [held] = torch.autograd.grad(norm(images)[0].sum(), images)
    [plain] = torch.autograd.grad(norm(images)[0].sum(), images)
    assert not held[1:].any()
    assert plain[1:].any()


@pytest.mark.parametrize(
    "make", [*OF_BATCHES, norms.GroupNorm2d, norms.PositionNorm2d, norms.LayerNorm]
)
def test_scale_and_bias_are_optional(make: Any) -> None:
    for affine, bias in itertools.product((True, False), (False,)):
        names = {name for name, _ in make(C, affine=affine, bias=bias).named_parameters()}
        assert names == ({"weight"} if affine else set())
    assert {name for name, _ in make(C, bias=True).named_parameters()} == {"weight", "bias"}


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(InvalidInput, match="3 groups do not divide 4 channels"):
        norms.GroupNorm2d(4, groups=3)
