"""Images larger than those a network was trained on: whether it takes them, and by what change.

Convolutions take any size. Learned positions (vision transformers, attention pools) and fully
connected layers without a pool before them take one. Positions can be interpolated.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dncbm.errors import DncbmError, InvalidInput

_TABLES = ("pos_embed", "pos_embedding", "positional_embedding")
"""Names of learned positions in timm, torchvision and open_clip."""
_SIZES = ("image_size", "img_size")


@torch.no_grad()
def takes(network: nn.Module, images: Float[Tensor, "n c h w"]) -> bool:
    """Whether a network computes something of images of this size.

    Networks refuse other sizes by assertions and by shapes that do not fit.
    """
    try:
        network(images)
    except (AssertionError, RuntimeError, ValueError, DncbmError):
        return False
    return True


def with_interpolated_positions(network: nn.Module, times: int) -> nn.Module:
    """A copy for images `times` as high and wide; all other weights are shared.

    Learned positions are interpolated bicubically, those of class tokens stay (Dosovitskiy et al.
    2021, section 3.2).

    Args:
        network: with learned positions of a square grid of patches.
        times: by how much images grow.

    Raises:
        InvalidInput: the network has no learned positions.
    """
    shared = {id(part): part for part in (*network.parameters(), *network.buffers())}
    grown = copy.deepcopy(network, shared)
    changed = 0
    for module in list(grown.modules()):
        if hasattr(module, "set_input_size") and hasattr(module, "patch_embed"):  # timm's own way
            height, width = module.patch_embed.img_size
            module.set_input_size((times * height, times * width))
            changed += 1
            continue
        changed += _grow_tables(module, times)
    if not changed:
        raise InvalidInput(
            f"{type(network).__name__} has no learned positions ({', '.join(_TABLES)}) to be "
            "interpolated. Let the grid be resized: fit='resize'."
        )
    return grown


def _grow_tables(module: nn.Module, times: int) -> int:
    changed = 0
    for name in _TABLES:
        table = module._parameters.get(name)
        if table is None or table.dim() not in (2, 3):
            continue
        module._parameters[name] = nn.Parameter(_grown(table, times), requires_grad=False)
        for size in _SIZES:
            if isinstance(getattr(module, size, None), int):
                setattr(module, size, times * getattr(module, size))
        changed += 1
    return changed


def _grown(table: Float[Tensor, "*one t d"], times: int) -> Float[Tensor, "*one m d"]:
    """Positions of a grid `times` as high and wide, behind those of the class tokens."""
    side = int(table.shape[-2] ** 0.5)
    extra = table.shape[-2] - side * side
    tokens, places = table.detach().split([extra, side * side], dim=-2)
    grid = places.reshape(1, side, side, -1).movedim(3, 1).float()
    grid = functional.interpolate(grid, scale_factor=times, mode="bicubic", antialias=True)
    rows = grid.flatten(2).mT.to(table).reshape(*table.shape[:-2], -1, table.shape[-1])
    return torch.cat([tokens, rows], dim=-2)
