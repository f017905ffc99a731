"""What is done to maps before they are scored or shown, as data: one order, no step unsaid.

    smooth → upsample → absolute → positive → normalise

Methods sum over channels and give signed maps at the layer's own resolution. They are smoothed
there, with their signs (S-IntGrad and S-IxG, Rao et al. 2022, section 5.3), since opposite signs
next to each other are what smoothing takes away; brought to the size of the image; and only then
lose their negative part (supplement H), since bilinear weights between a positive and a negative
place belong to both. What is left is normalised. Each step can be trained through.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dncbm.attribution.methods import upsampled
from dncbm.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Chain:
    """Post-processing of maps (n, t, y, x), in the order of this module.

    Raises:
        InvalidInput: a size below 1, an even kernel, or an unknown way to normalise.
    """

    size: tuple[int, int] | None = None
    """Height and width to which maps are brought, bilinear; None leaves them at their layer's."""
    absolute: bool = False
    """Count what speaks against the target like what speaks for it."""
    positive: bool = True
    """Drop what speaks against the target; nothing is left to drop after `absolute`."""
    normalise: str | None = None
    """`max` divides each map by its largest magnitude, `sum` by the sum of magnitudes; maps of
    zeros stay zeros."""
    smooth: int = 1
    """Side K of the Gaussian kernel in places of the layer, odd; 1 does nothing."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        _check_kernel(self.smooth)
        if self.size is not None and min(self.size) < 1:
            raise InvalidInput(f"Maps of size {self.size} are asked for; the rule is at least 1.")
        if self.normalise not in (None, "max", "sum"):
            raise InvalidInput(
                f"normalise is {self.normalise!r}; the rule is 'max', 'sum' or None."
            )

    def __call__(self, maps: Float[Tensor, "n t y x"]) -> Float[Tensor, "n t h w"]:
        """The maps after all steps."""
        maps = gaussian(maps, self.smooth)
        if self.size is not None:
            maps = upsampled(maps, self.size)
        if self.absolute:
            maps = maps.abs()
        if self.positive:
            maps = maps.clamp_min(0)
        return maps if self.normalise is None else _normalised(maps, self.normalise)


def gaussian(maps: Float[Tensor, "*n h w"], side: int) -> Float[Tensor, "*n h w"]:
    """Maps under a Gaussian of `side` x `side` places and σ = side / 4 (Rao et al. 2022).

    The kernel sums to 1; beyond the border are zeros.

    Raises:
        InvalidInput: an even side, or one below 1.
    """
    _check_kernel(side)
    if side == 1:
        return maps
    places = torch.arange(side, dtype=maps.dtype, device=maps.device) - side // 2
    line = torch.exp(-0.5 * (places / (side / 4)) ** 2)
    line = line / line.sum()
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    flat = functional.conv2d(flat, line.view(1, 1, -1, 1), padding=(side // 2, 0))
    flat = functional.conv2d(flat, line.view(1, 1, 1, -1), padding=(0, side // 2))
    return flat.view(maps.shape)


def _check_kernel(side: int) -> None:
    if side < 1 or side % 2 == 0:
        raise InvalidInput(f"The side of the Gaussian kernel is {side}; the rule is odd and > 0.")


def _normalised(maps: Tensor, how: str) -> Tensor:
    sizes = maps.abs()
    whole = sizes.amax((-2, -1), True) if how == "max" else sizes.sum((-2, -1), True)
    return maps / torch.where(whole > 0, whole, torch.ones_like(whole))
