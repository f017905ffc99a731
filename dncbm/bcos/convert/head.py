"""The head before the global pooling ("GAP reorder"): what each place says, then their mean.

Which layers these are is seen from the order in which a probe image passes through them.
"""

import torch
from torch import Tensor, nn

from dncbm.bcos.convert.parts import pooled_head
from dncbm.bcos.convert.vit import VisionTower
from dncbm.bcos.layers import BcosConv2d, BcosLinear
from dncbm.errors import InvalidInput

_THROUGH = (nn.Identity, nn.Flatten, nn.Dropout)


def move_head(network: nn.Module, probe: Tensor, *, required: bool) -> None:
    """Put the last linear layer before the global average pooling, if only dropout is between.

    Args:
        network: changed in place.
        probe: (1, 6, h, w), any values.
        required: whether to fail where it cannot be.

    Raises:
        InvalidInput: required, and there is no such pair of layers.
    """
    found = _pool_and_head(_calls(network, probe))
    if found is None:
        if required and not any(isinstance(part, VisionTower) for part in network.modules()):
            raise InvalidInput(
                "head_before_pool is asked for, but the network does not end in a global average "
                "pooling followed by one linear layer. Convert with head_before_pool=None."
            )
        return
    pool, head = found
    _replace(network, pool, nn.Identity())
    _replace(network, head, pooled_head(head))


def _calls(network: nn.Module, probe: Tensor) -> list[nn.Module]:
    """Layers in the order of their calls."""
    calls: list[nn.Module] = []
    layers = [
        part
        for part in network.modules()
        if not part._modules or isinstance(part, BcosConv2d | BcosLinear)
    ]
    hooks = [layer.register_forward_hook(lambda layer, *_: calls.append(layer)) for layer in layers]
    try:
        with torch.no_grad():
            network(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _pool_and_head(
    calls: list[nn.Module],
) -> tuple[nn.Module, BcosConv2d | BcosLinear] | None:
    ends = [layer for layer in calls if not isinstance(layer, _THROUGH)][-2:]
    if len(ends) < 2 or any(calls.count(layer) > 1 for layer in ends):
        return None
    pool, head = ends
    if not _averages_all(pool):
        return None
    if isinstance(head, BcosLinear):
        return pool, head
    if isinstance(head, BcosConv2d) and head.linear.kernel_size == (1, 1):
        return pool, head
    return None


def _averages_all(pool: nn.Module) -> bool:
    if isinstance(pool, nn.AdaptiveAvgPool2d):
        return pool.output_size in (1, (1, 1))
    return type(pool).__name__ == "FastAdaptiveAvgPool" and getattr(pool, "dim", None) == (2, 3)


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for part in network.modules():
        for name, child in part._modules.items():
            if child is old:
                part._modules[name] = new
