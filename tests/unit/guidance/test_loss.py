"""Guidance losses against their formulas pixel by pixel, their edges, and where gradients reach."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution import methods
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import BcosConv2d
from dncbm.errors import InvalidInput, UnknownName
from dncbm.guidance.loss import LOSSES, energy, loss_named, ppce
from tests.oracles import guidance as oracle


def _maps(y: int = 6, x: int = 8, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, y, x, generator=draw, dtype=torch.float64)


def _masks() -> Tensor:
    masks = torch.zeros(3, 2, 6, 8, dtype=torch.bool)
    masks[:, 0, 1:4, 2:6] = True
    masks[:, 1, 4:, :3] = True
    masks[2, 1, 0, 7] = True
    return masks


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [(6, 8), (3, 4), (2, 3)])
def test_losses_equal_the_loop(name: str, size: tuple[int, int]) -> None:
    """At the masks' resolution and enlarged from a layer's; each, their mean and their sum."""
    maps, masks = _maps(*size), _masks()
    wanted = np.array(
        [
            [getattr(oracle, name)(maps[n, t].numpy(), masks[n, t].numpy()) for t in range(2)]
            for n in range(3)
        ]
    )
    loss = loss_named(name)
    np.testing.assert_allclose(loss(maps, masks, reduction="none").numpy(), wanted, rtol=1e-10)
    assert loss(maps, masks).item() == pytest.approx(wanted.mean(), rel=1e-10)
    assert loss(maps, masks, reduction="sum").item() == pytest.approx(wanted.sum(), rel=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_formula(name: str) -> None:
    """By finite differences, at places where nothing is just at an edge."""
    maps = _maps(3, 4, seed=3).requires_grad_()
    torch.autograd.gradcheck(lambda m: LOSSES[name](m, _masks()), maps, atol=1e-6)


def test_energy_ignores_scale_and_others_divide_it_out() -> None:
    """So a weight suits networks whose logits are large and those whose logits are small."""
    maps, masks = _maps(3, 4), _masks()
    for name, loss in LOSSES.items():
        ours = loss(maps, masks, reduction="none")
        theirs = loss(1000 * maps, masks, reduction="none")
        torch.testing.assert_close(ours, theirs, msg=name)


def test_energy_of_perfect_and_of_uniform_maps() -> None:
    """0, and what is outside of the mask."""
    masks = _masks()
    assert energy(masks.double(), masks).item() == pytest.approx(0)
    uniform = energy(torch.ones(3, 2, 6, 8), masks, reduction="none")
    torch.testing.assert_close(uniform, 1 - masks.float().mean((-2, -1)))


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_energy_without_positive_mass_is_one_and_pulls_the_mask_up(value: float) -> None:
    """Where nothing is positive, the gradient still says what should be."""
    maps = torch.full((3, 2, 6, 8), value, dtype=torch.float64, requires_grad=True)
    found = energy(maps, _masks(), reduction="sum")
    assert found.item() == pytest.approx(6)
    found.backward()
    assert maps.grad is not None
    torch.testing.assert_close(maps.grad, -_masks().double())


def test_a_map_of_zeros_breaks_nothing() -> None:
    """Finite values and gradients, of all losses."""
    for name, loss in LOSSES.items():
        maps = torch.zeros(3, 2, 3, 4, requires_grad=True)
        value = loss(maps, _masks())
        value.backward()
        assert maps.grad is not None
        assert torch.isfinite(value), name
        assert torch.isfinite(maps.grad).all(), name


def test_ppce_does_not_look_outside() -> None:
    """Changing the map outside of the mask, below its maximum, changes nothing."""
    masks = _masks()
    maps = masks.double() + 0.0
    other = torch.where(masks, maps, torch.full_like(maps, 0.3))
    assert ppce(maps, masks).item() == pytest.approx(ppce(other, masks).item())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": torch.ones(3, 1, 6, 8, dtype=torch.bool)}, InvalidInput, "one mask for each"),
        ({"masks": torch.zeros(3, 2, 6, 8, dtype=torch.bool)}, InvalidInput, "A mask is empty"),
        ({"reduction": "mode"}, UnknownName, "reduction 'mode'"),
    ],
)
def test_what_means_nothing_is_refused(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    values: dict[str, object] = {"maps": _maps(), "masks": _masks(), "reduction": "mean"} | change
    for loss in LOSSES.values():
        with pytest.raises(error, match=message):
            loss(values["maps"], values["masks"], reduction=values["reduction"])  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="Nearest"):
        loss_named("enrgy")


def _plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Softplus(), nn.AvgPool2d(2),
        nn.Conv2d(6, 6, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(6 * 16, 4),
    )  # fmt: skip


def _bcos() -> nn.Module:
    network = nn.Sequential(
        BcosConv2d(6, 6, 3, padding=1), nn.Identity(), nn.AvgPool2d(2),
        BcosConv2d(6, 6, 3, padding=1), nn.Identity(), BcosConv2d(6, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    return ImageModel(network, encoding="inverse")


_METHODS: list[Callable[..., Tensor]] = [
    methods.gradient, methods.input_x_gradient, methods.integrated_gradients, methods.grad_cam,
    methods.layer_cam, methods.bcos,
]  # fmt: skip


@pytest.mark.parametrize("method", _METHODS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_reaches_the_head_and_what_comes_before_the_layer(
    method: Callable[..., Tensor], name: str
) -> None:
    """At a layer: all weights, which a channel weight taken as a constant would not allow."""
    torch.manual_seed(0)
    network = _bcos() if method is methods.bcos else _plain()
    inner = network.network if isinstance(network, ImageModel) else network
    assert isinstance(inner, nn.Sequential)
    extra = {"steps": 3} if method is methods.integrated_gradients else {}
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, 8, 8, generator=draw)
    masks = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    masks[..., 2:6, 1:5] = True
    maps = method(network, images, [0, 1, 2], layer=inner[3], create_graph=True, **extra)
    LOSSES[name](maps, masks).backward()
    head = inner[5] if method is methods.bcos else inner[6]
    for part in (inner[0], inner[3], head):
        reached = [p.grad for p in part.parameters() if p.dim() > 1]
        assert all(g is not None and float(g.abs().sum()) > 0 for g in reached), part
