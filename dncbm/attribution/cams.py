"""Class activation maps beyond Grad-CAM: channels of a layer under other weights."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.attribution.evaluation import masked_values, refuse_training, settled, values_of
from dncbm.attribution.layers import Layer, Network, split_at
from dncbm.attribution.methods import Maps, layer_gradients
from dncbm.attribution.perturbation import BATCH_SIZE
from dncbm.bcos.explain import Targets


def grad_cam_plus_plus(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    create_graph: bool = False,
) -> Maps:
    """Channels under a weighted mean of their positive gradients (Chattopadhay et al. 2018).

    With Y = exp(target), as in the paper, weights have a closed form in the gradient g of the
    target (eq. 19): g² / (2 g² + Σ A · g³) at each place. The factor exp(target), which is one
    number per map, is left out.
    """
    features, gradients = layer_gradients(
        forward, images, targets, layer, create_graph=create_graph
    )
    squares = gradients.square()
    sums = features.sum(dim=(-2, -1))[:, None, :, None, None]
    below = 2 * squares + sums * squares * gradients
    shares = squares / torch.where(below != 0, below, torch.ones_like(below))
    weights = (shares * gradients.relu()).sum(dim=(-2, -1))
    return _cam(weights, features)


def ablation_cam(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    batch_size: int = BATCH_SIZE,
    create_graph: bool = False,
) -> Maps:
    """Channels weighted by how much the target falls without them (Desai & Ramaswamy 2020, eq. 5).

    The fall is relative to the magnitude of the target, so that the map of a negative logit is not
    turned round. One forward pass per channel.
    """
    refuse_training("ablation_cam", create_graph)
    with torch.inference_mode(False), torch.no_grad():
        split = split_at(forward, images, layer)
        features = split.features.detach()
        targets = settled(split, targets)
        [before] = values_of(split.explain(split.features), targets, len(images))
        channels = features.shape[1]
        all_but_one = 1 - torch.eye(channels)[:, None, :, None, None]
        without = [
            values
            for _, values in masked_values(
                split, lambda part: all_but_one[part], channels, targets, batch_size=batch_size
            )
        ]
        fall = before - torch.cat(without)
        size = before.abs()
        weights = fall / torch.where(size > 0, size, torch.ones_like(size))
        return _cam(weights.movedim(0, -1), features)


def score_cam(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    batch_size: int = BATCH_SIZE,
    create_graph: bool = False,
) -> Maps:
    """Channels weighted by the target of the image under each of them (Wang et al. 2020, alg. 1).

    Each channel is brought to the size of the image and to [0, 1], and masks it. The weights are
    the softmax over channels of the targets that come out; what a baseline image would take from
    all of them cancels there. Each target has weights of its own. A channel that is the same
    everywhere says nothing about places and has no weight. One forward pass per channel.
    """
    refuse_training("score_cam", create_graph)
    with torch.inference_mode(False), torch.no_grad():
        features = split_at(forward, images, layer).features.detach()
        whole = split_at(forward, images)
        targets = settled(whole, targets)
        size = (images.shape[-2], images.shape[-1])

        def masks(chosen: slice) -> Tensor:
            large = functional.interpolate(
                features[:, chosen], size, mode="bilinear", align_corners=False
            )
            return _to_unit(large).movedim(1, 0)[:, :, None]

        scores = torch.cat([
            values
            for _, values in masked_values(
                whole, masks, features.shape[1], targets, batch_size=batch_size
            )
        ]).movedim(0, -1)  # fmt: skip
        flat = features.amax((-2, -1)) == features.amin((-2, -1))
        scores = scores.masked_fill(flat[:, None], torch.finfo(scores.dtype).min)
        return _cam(scores.softmax(dim=-1), features)


def _cam(weights: Float[Tensor, "n t c"], features: Float[Tensor, "n c y x"]) -> Maps:
    return torch.einsum("ntc,ncyx->ntyx", weights, features).relu()


def _to_unit(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    low, high = maps.amin((-2, -1), True), maps.amax((-2, -1), True)
    width = high - low
    return (maps - low) / torch.where(width > 0, width, torch.ones_like(width))
