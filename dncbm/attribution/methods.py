"""Attribution methods that can be trained through, all with one signature and several targets.

    maps (n, t, y, x) = method(forward, images (n, c, h, w), targets, layer=..., create_graph=...)

At the input a map has the size of the images, at a layer that of its features; `upsampled` brings
it to the images. One forward pass serves all targets. With `create_graph` a loss on the maps trains
all weights, those before the layer and the channel weights of Grad-CAM included. B-cos networks
need none of these: their W(x) is exact (`bcos`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.attribution.evaluation import settled
from dncbm.attribution.layers import Layer, Network, Splittable, split_at
from dncbm.bcos.explain import Targets, explain, target_values
from dncbm.bcos.mode import explanation_mode
from dncbm.errors import InvalidInput

Maps = Float[Tensor, "n t y x"]


def gradient(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    create_graph: bool = False,
) -> Maps:
    """Absolute gradient, summed over channels (Simonyan et al. 2014)."""
    _, gradients = layer_gradients(forward, images, targets, layer, create_graph=create_graph)
    return gradients.abs().sum(dim=2)


def input_x_gradient(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    create_graph: bool = False,
) -> Maps:
    """Features times gradient, summed over channels (Shrikumar et al. 2017)."""
    features, gradients = layer_gradients(
        forward, images, targets, layer, create_graph=create_graph
    )
    return (features[:, None] * gradients).sum(dim=2)


def integrated_gradients(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    baseline: Tensor | float = 0.0,
    steps: int = 32,
    create_graph: bool = False,
) -> Maps:
    """Features minus baseline times the mean gradient between them (Sundararajan et al. 2017).

    The mean is over the middles of `steps` equal parts of the way. Targets that are left out are
    the best classes of the images themselves.

    Raises:
        InvalidInput: fewer than one step.
    """
    if steps < 1:
        raise InvalidInput(f"steps is {steps}; the rule is at least 1. 20 to 50 are usual.")
    with torch.inference_mode(False), torch.enable_grad():
        split = split_at(forward, images, layer, create_graph=create_graph)
        targets = settled(split, targets)
        way = split.features - baseline
        total = torch.zeros_like(split.features[:, None])
        for step in range(steps):
            # on the way, and a leaf of its own where nothing before it is trained
            place = baseline + way * ((step + 0.5) / steps)
            place = place if create_graph else place.detach().requires_grad_()
            found = target_gradients(split.explain(place), place, targets, create_graph) / steps
            total = total + found
        maps = (way[:, None] * total).sum(dim=2)
        return maps if create_graph else maps.detach()


def grad_cam(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    rectified: bool = True,
    create_graph: bool = False,
) -> Maps:
    """Channels weighted by their mean gradient, positive part (Selvaraju et al. 2017).

    With `rectified=False` the sign stays: a loss can then raise maps that are negative everywhere,
    through whose positive part no gradient comes.
    """
    features, gradients = layer_gradients(
        forward, images, targets, layer, create_graph=create_graph
    )
    maps = torch.einsum("ntc,ncyx->ntyx", gradients.mean(dim=(-2, -1)), features)
    return maps.relu() if rectified else maps


def layer_cam(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    create_graph: bool = False,
) -> Maps:
    """As `grad_cam`, with the positive gradient at each place as its weight (Jiang et al. 2021)."""
    features, gradients = layer_gradients(
        forward, images, targets, layer, create_graph=create_graph
    )
    return torch.einsum("ntcyx,ncyx->ntyx", gradients.relu(), features).relu()


def bcos(
    forward: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    create_graph: bool = False,
) -> Maps:
    """Contributions by W(x), exact in dynamic linear networks (Böhle et al. 2022)."""
    if layer is None and not isinstance(forward, Splittable):
        return explain(forward, images, targets, create_graph=create_graph).maps
    with explanation_mode():
        return input_x_gradient(forward, images, targets, layer=layer, create_graph=create_graph)


def layer_gradients(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None,
    layer: Layer,
    *,
    create_graph: bool = False,
) -> tuple[Float[Tensor, "n d y x"], Float[Tensor, "n t d y x"]]:
    """Features at a layer, and the gradient of each target with respect to them.

    Raises:
        UnknownName: there is no such layer.
        InvalidInput: a target that does not exist, or a layer without features of places.
    """
    with torch.inference_mode(False), torch.enable_grad():
        split = split_at(forward, images, layer, create_graph=create_graph)
        output = split.explain(split.features)
        gradients = target_gradients(output, split.features, targets, create_graph)
        return (split.features if create_graph else split.features.detach()), gradients


def upsampled(maps: Float[Tensor, "n t y x"], size: tuple[int, int]) -> Float[Tensor, "n t h w"]:
    """Maps of a layer at the size of the images, bilinear as in the papers."""
    if maps.shape[-2:] == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def smoothed(maps: Float[Tensor, "*n h w"], side: int) -> Float[Tensor, "*n h w"]:
    """Mean over `side` x `side` pixels, with zeros beyond the border; odd sides only.

    Raises:
        InvalidInput: an even side, or one below 1.
    """
    if side < 1 or side % 2 == 0:
        raise InvalidInput(f"The side of the smoothing window is {side}; the rule is odd and > 0.")
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return functional.avg_pool2d(flat, side, stride=1, padding=side // 2).view(maps.shape)


def target_gradients(
    output: Tensor, source: Tensor, targets: Targets | None, create_graph: bool
) -> Float[Tensor, "n t *source"]:
    """Gradient of each target with respect to `source`, in one graph."""
    values = target_values(output, targets)
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
