"""Quantus runs on our attributions, and our mass ratio runs as its metrics do."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dncbm.attribution.catalogue import METHODS
from dncbm.attribution.chain import Chain
from dncbm.attribution.quantus_bridge import MassRatio, explain_func
from dncbm.errors import InvalidInput, UnknownName
from tests.unit.attribution._networks import images, relus

CLASSES = np.array([2, 0])


@pytest.fixture
def quantus() -> Iterator[Any]:
    """The package, whose own warnings are none of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("quantus")


def _net() -> nn.Module:
    return relus().float().eval()


def _x() -> np.ndarray:
    return images().float().numpy()


def _masks() -> np.ndarray:
    masks = np.zeros((2, 1, 5, 7))
    masks[0, 0, 1:4, 2:5] = masks[1, 0, :, :3] = 1
    return masks


def test_maps_are_those_of_the_method() -> None:
    net = _net()
    found = explain_func(net, _x(), CLASSES)
    expected = METHODS["input_x_gradient"].function(net, images().float(), torch.tensor([2, 0]))
    np.testing.assert_allclose(found, expected.numpy())
    chain = Chain(normalise="max", smooth=3)
    cam = explain_func(
        net, _x(), CLASSES, method="grad_cam", layer="1", chain=chain, device="cpu",
        options={"create_graph": False}, normalise=True,
    )  # fmt: skip
    maps = METHODS["grad_cam"].function(net, images().float(), torch.tensor([2, 0]), layer="1")
    np.testing.assert_allclose(cam, Chain((5, 7), normalise="max", smooth=3)(maps).numpy())
    with pytest.raises(UnknownName, match="attribution method 'saliency'"):
        explain_func(net, _x(), CLASSES, method="saliency")


def test_the_mass_ratio_is_quantuss_attribution_localisation(quantus: Any) -> None:
    net, kwargs = _net(), {"method": "input_x_gradient"}
    theirs = quantus.AttributionLocalisation(
        positive_attributions=True, abs=False, normalise=False, disable_warnings=True
    )(net, _x(), CLASSES, s_batch=_masks(), explain_func=explain_func, explain_func_kwargs=kwargs)
    ours = MassRatio()(net, _x(), CLASSES, s_batch=_masks(), explain_func_kwargs=kwargs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    alone = MassRatio()(
        net, _x(), CLASSES, s_batch=_masks(), explain_func=explain_func, device="cpu", batch_size=1
    )
    np.testing.assert_allclose(alone, ours, rtol=1e-5)


@pytest.mark.parametrize(("method", "layer"), [("grad_cam", "1"), ("occlusion", None)])
def test_faithfulness_randomisation_and_robustness_run(
    quantus: Any, method: str, layer: str | None
) -> None:
    net = _net()
    options: dict[str, Any] = {"method": method, "layer": layer, "chain": Chain(absolute=True)}
    if method == "occlusion":
        options["options"] = {"window": 2, "stride": 1}
    metrics = [
        quantus.PixelFlipping(features_in_step=5, disable_warnings=True),
        quantus.MPRT(disable_warnings=True, return_average_correlation=True),
        quantus.MaxSensitivity(nr_samples=2, disable_warnings=True),
    ]
    for metric in metrics:
        scores = metric(
            net, _x(), CLASSES, explain_func=explain_func, explain_func_kwargs=dict(options),
            device="cpu",
        )  # fmt: skip
        assert len(scores) in (1, 2)
        assert np.isfinite(np.concatenate([np.ravel(score) for score in scores])).all()


def test_maps_can_be_given() -> None:
    maps = np.ones((2, 5, 7))
    found = MassRatio()(None, _x(), CLASSES, a_batch=maps, s_batch=_masks())
    np.testing.assert_allclose(found, _masks().mean((1, 2, 3)))
    empty = MassRatio(undefined="nan")(None, _x(), CLASSES, a_batch=-maps, s_batch=_masks())
    assert np.isnan(empty).all()


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.ones((2, 5, 7)), None, "There are no masks"),
        (np.ones((2, 3, 5, 7)), np.ones((2, 5, 7)), r"Maps have shape \(2, 3, 5, 7\)"),
        (np.ones((2, 5, 7)), np.ones((2, 5, 6)), "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(maps: np.ndarray, masks: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        MassRatio()(None, _x(), CLASSES, a_batch=maps, s_batch=masks)
