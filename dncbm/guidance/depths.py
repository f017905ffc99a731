"""How deep a network is guided: at the input, at three depths of its body, or at its end.

The papers guide ResNets at the outputs of their four stages. Any other network has a row of blocks
(stages of a CNN, encoders of a vision transformer), which is taken at its quarters.
"""

import math
import re

from torch import nn

from dncbm.errors import UnknownName

DEPTHS = ("input", "mid1", "mid2", "mid3", "final")
_SHORTEST_ROW = 3
_NUMBERED = re.compile(r"^(.*?)\d+$")
_HEADS = {"classifier", "head", "fc"}
"""Parts that make classes and have no places."""


def layer_at(network: nn.Module, depth: str) -> nn.Module | None:
    """The module whose output is guided; None is the input.

    Args:
        network: an `ImageModel`, a classifier of torchvision or timm, or any other module.
        depth: one of `DEPTHS`, in letters of any case, or the name of a module.

    Raises:
        UnknownName: no such module, or no row of blocks in the network; with the nearest names.
    """
    modules = dict(network.named_modules())
    if depth in modules and depth:
        return modules[depth]
    place = depth.lower()
    if place == DEPTHS[0]:
        return None
    row = _blocks(network) if place in DEPTHS else []
    if not row:
        known = DEPTHS if _blocks(network) else DEPTHS[:1]
        raise UnknownName("layer", depth, [*known, *(name for name in modules if name)])
    return row[math.ceil(len(row) * DEPTHS.index(place) / 4) - 1]


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The row of the network's blocks, in order.

    Modules beside each other whose names differ by a number make a row; that with the most
    parameters is the body, the outer one where one holds the other.
    """
    rows: dict[str, list[tuple[str, nn.Module]]] = {}
    for name, module in network.named_modules():
        match = _NUMBERED.match(name)
        if match is not None and not _HEADS & set(name.split(".")):
            rows.setdefault(match[1], []).append((name, module))
    long = [row for row in rows.values() if len(row) >= _SHORTEST_ROW]
    if not long:
        return []
    best = max(long, key=lambda row: (_size(row), -row[0][0].count(".")))
    return [module for _, module in best]


def _size(row: list[tuple[str, nn.Module]]) -> int:
    return sum(p.numel() for _, module in row for p in module.parameters())
