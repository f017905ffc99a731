"""Gradients that are noisy no longer: other rules at ReLU, means over noise, smoothed maps."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from dncbm.attribution.chain import gaussian
from dncbm.attribution.evaluation import refuse_training, settled
from dncbm.attribution.layers import Layer, Network, split_at
from dncbm.attribution.methods import (
    Maps,
    input_x_gradient,
    integrated_gradients,
    layer_gradients,
    target_gradients,
)
from dncbm.bcos.explain import Targets
from dncbm.errors import InvalidInput
from dncbm.training.seeding import generator

KERNEL_SHARE = 0.288
"""Side of the Gaussian kernel over that of the map: 129 of 448, 17 of 56, 9 of 28 places, as in
the figures of Rao et al. 2022."""


def guided_backprop(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    create_graph: bool = False,
) -> Maps:
    """Absolute gradient where every ReLU passes positive gradients only (Springenberg et al. 2015).

    Of ReLU modules, as in captum; ReLU that are called as functions are plain.

    Raises:
        InvalidInput: the network calls no ReLU module.
    """
    refuse_training("guided_backprop", create_graph)
    with guided_relus() as seen:
        _, gradients = layer_gradients(forward, images, targets, layer)
    if not seen:
        raise InvalidInput(
            "The network calls no nn.ReLU module, so guided_backprop would be the plain gradient. "
            "Use gradient, or give a network with ReLU modules."
        )
    return gradients.abs().sum(dim=2)


@contextmanager
def guided_relus() -> Iterator[list[nn.Module]]:
    """ReLU modules that this thread calls pass positive gradients only; yields those it called.

    The rule hangs on the tensors that come out, not on the modules: graphs of other threads, and
    of calls before and after, are as ever. May be entered again inside.
    """
    owner = threading.get_ident()
    seen: list[nn.Module] = []

    def guide(module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(module, nn.ReLU) or threading.get_ident() != owner:
            return
        seen.append(module)
        if isinstance(output, Tensor) and output.requires_grad:
            # relu(gradient before) = relu(gradient after) where the input is positive
            output.register_hook(lambda gradient: gradient.clamp_min(0))

    # of all modules, so that it also reaches networks inside functions and grid settings
    handle = register_module_forward_hook(guide)
    try:
        yield seen
    finally:
        handle.remove()


def smooth_grad(  # noqa: PLR0913 - settings of the paper
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    samples: int = 15,
    noise: float = 0.15,
    seed: int = 0,
    create_graph: bool = False,
) -> Maps:
    """Absolute mean gradient under Gaussian noise, summed over channels (Smilkov et al. 2017).

    The noise of a seed is the same for all images, up to its size.

    Options:
        samples: how many noisy copies.
        noise: standard deviation as a share of the range of each image, or of its features.
        seed: of the noise.

    Raises:
        InvalidInput: no samples, or a negative noise.
    """
    if samples < 1 or noise < 0:
        raise InvalidInput(
            f"{samples} samples with noise {noise}; the rule is at least one sample and noise of "
            "0 or more. 15 samples and 0.1 to 0.2 are usual."
        )
    draw = generator(seed, "smooth_grad")
    with torch.inference_mode(False), torch.enable_grad():
        split = split_at(forward, images, layer, create_graph=create_graph)
        targets = settled(split, targets)
        features = split.features
        span = (features.amax((1, 2, 3), True) - features.amin((1, 2, 3), True)).detach()
        total = torch.zeros_like(features[:, None])
        for _ in range(samples):
            drawn = torch.randn(features.shape[1:], generator=draw, dtype=torch.float64)
            place = features + noise * span * drawn.to(features)
            place = place if create_graph else place.detach().requires_grad_()
            total = total + target_gradients(split.explain(place), place, targets, create_graph)
        maps = (total / samples).abs().sum(dim=2)
        return maps if create_graph else maps.detach()


def smoothed_integrated_gradients(  # noqa: PLR0913 - settings of the paper
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    smooth: int | None = None,
    baseline: Tensor | float = 0.0,
    steps: int = 32,
    create_graph: bool = False,
) -> Maps:
    """S-IntGrad: `integrated_gradients` under a Gaussian (Rao et al. 2022, section 5.3).

    Options:
        smooth: side of the kernel, see `kernel_side` for the default.
        baseline: see `integrated_gradients`.
        steps: see `integrated_gradients`.
    """
    maps = integrated_gradients(
        forward, images, targets, layer=layer, baseline=baseline, steps=steps,
        create_graph=create_graph,
    )  # fmt: skip
    return gaussian(maps, kernel_side(maps) if smooth is None else smooth)


def smoothed_input_x_gradient(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    smooth: int | None = None,
    create_graph: bool = False,
) -> Maps:
    """S-IxG: `input_x_gradient` under a Gaussian (Rao et al. 2022, section 5.3).

    Options:
        smooth: side of the kernel, see `kernel_side` for the default.
    """
    maps = input_x_gradient(forward, images, targets, layer=layer, create_graph=create_graph)
    return gaussian(maps, kernel_side(maps) if smooth is None else smooth)


def kernel_side(maps: Float[Tensor, "n t y x"]) -> int:
    """The largest odd side up to 0.288 times that of the maps plus 1, see `KERNEL_SHARE`."""
    return 2 * int(KERNEL_SHARE * min(maps.shape[-2:]) / 2) + 1
