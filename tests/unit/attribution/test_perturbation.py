"""Occlusion, RISE and CAMs without gradients, beside their oracles."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution import cams, perturbation
from dncbm.errors import InvalidInput
from dncbm.training.seeding import generator
from tests.oracles import attribution_evaluation as oracle
from tests.unit.attribution._networks import TARGETS, each, images, one, relus


def _features(net: nn.Sequential, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net[:2](torch.from_numpy(x)[None])[0].numpy()


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2), (4, 1), (6, 5)])
def test_occlusion_is_the_oracles(window: int, stride: int) -> None:
    net = relus()
    options: Any = {"window": window, "stride": stride, "baseline": 0.2}
    found = perturbation.occlusion(net, images(), TARGETS, **options)
    each(found, lambda x, k: oracle.occlusion(one(net, k), x, window, stride, 0.2))


def test_occlusion_of_a_layer_is_the_oracles() -> None:
    net = relus()
    found = perturbation.occlusion(net, images(), TARGETS, layer="1", window=2, stride=1)
    each(found, lambda x, k: oracle.occlusion(one(net[2:], k), _features(net, x), 2, 1, 0.0))
    usual = perturbation.occlusion(net, images(), TARGETS, layer="1")
    assert torch.equal(
        usual, perturbation.occlusion(net, images(), TARGETS, layer="1", window=5, stride=2)
    )


def test_rise_is_the_oracles() -> None:
    net, draw = relus(), generator(7, "rise")
    found = perturbation.rise(net, images(), TARGETS, masks=9, cells=2, keep=0.4, seed=7)
    bits = (torch.rand(9, 1, 2, 2, generator=draw) < 0.4)[:, 0].double().numpy()
    shifts = [torch.randint(size, (9,), generator=draw).numpy() for size in (3, 4)]
    places = np.stack(shifts, axis=1)
    each(found, lambda x, k: oracle.rise(one(net, k), x, bits, places, 0.4))


def test_cams_are_the_oracles() -> None:
    net = relus()
    found = cams.ablation_cam(net, images(), TARGETS, layer="1")
    each(found, lambda x, k: oracle.ablation_cam(one(net[2:], k), _features(net, x)))
    found = cams.score_cam(net, images(), TARGETS, layer="1")
    each(found, lambda x, k: oracle.score_cam(one(net, k), x, _features(net, x)))
    found = cams.grad_cam_plus_plus(net, images(), TARGETS, layer="1")
    each(found, lambda x, k: oracle.grad_cam_plus_plus(one(net[2:], k), _features(net, x)), 1e-6)


def _calls(method: Any, **options: Any) -> tuple[Tensor, list[int]]:
    net, sizes = relus(), []
    net[0].register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    return method(net, images(), TARGETS, layer="1", **options), sizes


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (perturbation.occlusion, {"window": 2, "stride": 1}),
        (perturbation.rise, {"masks": 11}),
        (cams.ablation_cam, {}),
        (cams.score_cam, {}),
    ],
)
def test_batches_are_bounded_and_change_nothing(method: Any, options: Any) -> None:
    expected, sizes = _calls(method, **options)
    for batch_size in (1, 5, 7):
        found, sizes = _calls(method, batch_size=batch_size, **options)
        torch.testing.assert_close(found, expected)
        assert max(sizes) <= max(batch_size, 2)


def test_all_targets_come_from_the_same_passes() -> None:
    for method in (perturbation.occlusion, perturbation.rise, cams.ablation_cam, cams.score_cam):
        whole, many = _calls(method)
        net = relus()
        for t in range(2):
            torch.testing.assert_close(
                method(net, images(), TARGETS[:, t], layer="1")[:, 0], whole[:, t]
            )
        _, few = _calls(lambda n, x, targets, method=method, **o: method(n, x, targets[:, :1], **o))
        assert many == few


def test_masks_are_those_of_the_seed() -> None:
    net = relus()
    first, again, other = (
        perturbation.rise(net, images(), 0, masks=20, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    alone = perturbation.rise(net, images()[1:], 0, masks=20, seed=0)
    torch.testing.assert_close(alone, first[1:])


def test_a_channel_that_is_the_same_everywhere_has_no_weight() -> None:
    net = relus()
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = 0.0, 5.0
    maps = cams.score_cam(net, images(), 0, layer="1")
    assert float(maps.max()) < float(net[:2](images()).detach()[:, 1:].max()) + 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: perturbation.occlusion(n, x, window=2, stride=3), "Window 2, stride 3"),
        (lambda n, x: perturbation.occlusion(n, x, batch_size=0), "batch_size is 0"),
        (lambda n, x: perturbation.rise(n, x, keep=0.0), "probability 0.0"),
        (lambda n, x: perturbation.rise(n, x, masks=0), "0 masks"),
        (lambda n, x: perturbation.rise(n, x, 3), "Class 3 does not exist"),
    ],
)
def test_bad_calls_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call(relus(), images())
