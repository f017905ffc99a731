"""Attribution methods for any network, all with one signature and several targets at once.

    maps (n, t, h, w) = method(forward, images (n, c, h, w), targets, ...)

One forward pass serves all targets. With `create_graph` the maps can be trained through, channel
weights included. B-cos networks need none of these: their W(x) is exact (`bcos`).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.bcos.explain import Targets, explain, target_values
from dncbm.errors import InvalidInput

Maps = Float[Tensor, "n t h w"]
Network = Callable[[Tensor], Tensor]
"""Images (n, c, h, w) to outputs (n, k)."""


def gradient(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    create_graph: bool = False,
) -> Maps:
    """Absolute gradient, summed over channels (Simonyan et al. 2014)."""
    _, gradients = _input_gradients(forward, images, targets, create_graph)
    return gradients.abs().sum(dim=2)


def input_x_gradient(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    create_graph: bool = False,
) -> Maps:
    """Input times gradient, summed over channels (Shrikumar et al. 2017)."""
    inputs, gradients = _input_gradients(forward, images, targets, create_graph)
    return (inputs[:, None] * gradients).sum(dim=2)


def integrated_gradients(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    baseline: Tensor | float = 0.0,
    steps: int = 32,
    create_graph: bool = False,
) -> Maps:
    """Input minus baseline times the mean gradient between them (Sundararajan et al. 2017).

    The mean is over the middles of `steps` equal parts of the way. Targets that are left out are
    the best classes of the images themselves.

    Raises:
        InvalidInput: fewer than one step.
    """
    if steps < 1:
        raise InvalidInput(f"steps is {steps}; the rule is at least 1. 20 to 50 are usual.")
    if targets is None:
        with torch.no_grad():
            targets = forward(images).argmax(dim=1)
    way = images - baseline
    found: list[Tensor] = []
    for step in range(steps):
        place = baseline + way * ((step + 0.5) / steps)
        gradients = _input_gradients(forward, place, targets, create_graph)[1] / steps
        found = [found[0] + gradients] if found else [gradients]
    return (way[:, None] * found[0]).sum(dim=2)


def grad_cam(
    forward: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: nn.Module,
    create_graph: bool = False,
) -> Maps:
    """Channels of a layer weighted by their mean gradient, positive part (Selvaraju et al. 2017).

    Args:
        forward: a network that calls `layer`.
        images: what it takes.
        targets: see `Targets`.
        layer: its output is (n, c', y, x).
        create_graph: keep the graph, that of the channel weights too.

    Returns:
        Maps, upsampled bilinearly to the size of the images.
    """
    maps, gradients = layer_gradients(forward, images, targets, layer, create_graph=create_graph)
    weights = gradients.mean(dim=(-2, -1))
    found = torch.einsum("ntc,ncyx->ntyx", weights, maps).relu()
    return functional.interpolate(found, images.shape[-2:], mode="bilinear", align_corners=False)


def layer_cam(
    forward: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: nn.Module,
    create_graph: bool = False,
) -> Maps:
    """As `grad_cam`, with the positive gradient at each place as its weight (Jiang et al. 2021)."""
    maps, gradients = layer_gradients(forward, images, targets, layer, create_graph=create_graph)
    found = torch.einsum("ntcyx,ncyx->ntyx", gradients.relu(), maps).relu()
    return functional.interpolate(found, images.shape[-2:], mode="bilinear", align_corners=False)


def bcos(
    forward: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    create_graph: bool = False,
) -> Maps:
    """Contributions by W(x), exact in dynamic linear networks (Böhle et al. 2022)."""
    return explain(forward, images, targets, create_graph=create_graph).maps


def smoothed(maps: Float[Tensor, "*n h w"], side: int) -> Float[Tensor, "*n h w"]:
    """Mean over `side` x `side` pixels, with zeros beyond the border; odd sides only.

    Raises:
        InvalidInput: an even side, or one below 1.
    """
    if side < 1 or side % 2 == 0:
        raise InvalidInput(f"The side of the smoothing window is {side}; the rule is odd and > 0.")
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return functional.avg_pool2d(flat, side, stride=1, padding=side // 2).view(maps.shape)


def _input_gradients(
    forward: Network, images: Tensor, targets: Targets | None, create_graph: bool
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n t c h w"]]:
    with torch.inference_mode(False), torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        values = target_values(forward(inputs), targets)
        gradients = _gradients(values, inputs, create_graph)
        return (inputs if create_graph else inputs.detach()), gradients


def layer_gradients(
    forward: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None,
    layer: nn.Module,
    *,
    create_graph: bool = False,
) -> tuple[Float[Tensor, "n d y x"], Float[Tensor, "n t d y x"]]:
    """Output of a layer, and the gradient of each target with respect to it.

    Raises:
        InvalidInput: the layer is not called once, or its output is not (n, d, y, x).
    """
    with torch.inference_mode(False), torch.enable_grad(), _output_of(layer) as seen:
        # a graph from the images, in case that no weight before the layer has gradients
        values = target_values(forward(images.detach().clone().requires_grad_()), targets)
        if len(seen) != 1 or seen[0].dim() != 4:
            raise InvalidInput(
                f"The layer {type(layer).__name__} was called {len(seen)} times"
                f"{f' and gave shape {tuple(seen[0].shape)}' if seen else ''}; the rule is once, "
                "with an output (n, c, y, x). Give a convolution, a block or a stage."
            )
        gradients = _gradients(values, seen[0], create_graph)
        return (seen[0] if create_graph else seen[0].detach()), gradients


def _gradients(values: Tensor, source: Tensor, create_graph: bool) -> Tensor:
    """Of each target, (n, t, *source)."""
    count = values.shape[1]
    found = [
        torch.autograd.grad(
            values[:, t].sum(),
            source,
            retain_graph=create_graph or t + 1 < count,
            create_graph=create_graph,
        )[0]
        for t in range(count)
    ]
    return torch.stack(found, dim=1)


@contextmanager
def _output_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What the layer gives to this thread; other threads that call it leave nothing here."""
    seen: list[Tensor] = []
    owner = threading.get_ident()

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        if threading.get_ident() == owner:
            seen.append(output)

    handle = layer.register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
