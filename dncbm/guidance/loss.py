"""Losses that move attribution into a mask: energy, L1, PPCE and RRR*.

Letters: A (y, x) the attribution of one target of one image, A+ its positive part, M (h, w) the
mask of that target. Source: Rao et al. 2023 (ICCV, "Studying How to Efficiently and Effectively
Guide Models with Explanations"), section 3.2. A target here is the logit, before any sigmoid.

Maps of a deep layer are smaller than masks and are enlarged bilinearly. Energy enlarges the map as
it is and then takes its positive part; the others take the positive part (RRR* keeps the sign) and
divide by the largest magnitude of the map first.

With `reduction="mean"` the loss does not depend on how many maps there are. The papers' code sums
("sum"), so that the weight of the loss, lambda, depends on the batch: 1e-3 of a sum over 64 images
is 0.064 of their mean.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dncbm.attribution.methods import upsampled
from dncbm.errors import InvalidInput, UnknownName

Reduction = Literal["mean", "sum", "none"]
SMALLEST_MASS = 1e-7
"""A map with less positive mass than this has no energy that could lie anywhere."""
_SMALLEST_SHARE = 1e-7
"""PPCE takes the logarithm of no less than this share of the largest attribution."""

_Maps = Float[Tensor, "n t y x"]
_Masks = Bool[Tensor, "_n _t h w"]
_Each = Callable[[Tensor, Tensor], Tensor]
GuidanceLoss = Callable[..., Tensor]
"""Maps (n, t, y, x), masks (n, t, h, w) and `reduction` to a number, or (n, t) with `none`."""


def energy(maps: _Maps, masks: _Masks, *, reduction: str = "mean") -> Tensor:
    """1 - Σ M A+ / Σ A+: the share of the positive attribution outside the mask, from 0 to 1.

    It does not change with the scale of the map, and asks nothing about the place inside the mask.
    Where Σ A+ is below 1e-7, the share means nothing: the value is then 1 - Σ M A+, as in the
    papers' code, and its gradient raises the attribution in the mask, also where it is negative. No
    gradient comes through a positive part that was taken before, so give Grad-CAM with its sign
    (`rectified=False`): guided without, its maps end at zero and stay there.

    Args:
        maps: signed attributions, at the resolution of their layer.
        masks: where they should be.
        reduction: `mean` or `sum` over all maps, or `none`.

    Raises:
        InvalidInput: other shapes, an empty mask, or another reduction.
    """

    def each(maps: Tensor, masks: Tensor) -> Tensor:
        enlarged = _enlarged(maps, masks)
        positive = enlarged.clamp_min(0)
        total, inside = positive.sum((-2, -1)), (masks * positive).sum((-2, -1))
        signed = (masks * enlarged).sum((-2, -1))
        without_mass = signed - (signed - inside).detach()
        defined = total >= SMALLEST_MASS
        share = inside / torch.where(defined, total, 1.0)
        return 1 - torch.where(defined, share, without_mass)

    return _reduced(each, maps, masks, reduction)


def l1(maps: _Maps, masks: _Masks, *, reduction: str = "mean") -> Tensor:
    """Mean over pixels of |M - A+ / max A+|: the map should fill the mask evenly.

    Args:
        maps: signed attributions, at the resolution of their layer.
        masks: what they should look like.
        reduction: `mean` or `sum` over all maps, or `none`.

    Raises:
        InvalidInput: other shapes, an empty mask, or another reduction.
    """

    def each(maps: Tensor, masks: Tensor) -> Tensor:
        found = _enlarged(_scaled(maps.clamp_min(0)), masks)
        return (masks.to(found) - found).abs().mean((-2, -1))

    return _reduced(each, maps, masks, reduction)


def ppce(maps: _Maps, masks: _Masks, *, reduction: str = "mean") -> Tensor:
    """Mean over the mask of -log(A+ / max A+): per-pixel cross-entropy, in nats.

    Nothing outside of the mask counts. The logarithm is of at least 1e-7.

    Args:
        maps: signed attributions, at the resolution of their layer.
        masks: where they should be.
        reduction: `mean` or `sum` over all maps, or `none`.

    Raises:
        InvalidInput: other shapes, an empty mask, or another reduction.
    """

    def each(maps: Tensor, masks: Tensor) -> Tensor:
        found = _enlarged(_scaled(maps.clamp_min(0)), masks)
        logarithms = found.clamp_min(_SMALLEST_SHARE).log()
        return -(masks * logarithms).sum((-2, -1)) / masks.sum((-2, -1))

    return _reduced(each, maps, masks, reduction)


def rrr(maps: _Maps, masks: _Masks, *, reduction: str = "mean") -> Tensor:
    """RRR*: Σ (1 - M) (A / max |A|)², a sum over the pixels outside of the mask.

    Right for the right reasons (Ross et al. 2017) with any attribution in place of the gradient.
    Nothing inside of the mask counts.

    Args:
        maps: signed attributions, at the resolution of their layer.
        masks: where they may be.
        reduction: `mean` or `sum` over all maps, or `none`.

    Raises:
        InvalidInput: other shapes, an empty mask, or another reduction.
    """

    def each(maps: Tensor, masks: Tensor) -> Tensor:
        found = _enlarged(_scaled(maps), masks)
        return (~masks * found.square()).sum((-2, -1))

    return _reduced(each, maps, masks, reduction)


LOSSES: dict[str, GuidanceLoss] = {"energy": energy, "l1": l1, "ppce": ppce, "rrr": rrr}


def loss_named(name: str) -> GuidanceLoss:
    """One of `LOSSES`.

    Raises:
        UnknownName: no such loss.
    """
    if name not in LOSSES:
        raise UnknownName("guidance loss", name, LOSSES)
    return LOSSES[name]


def _enlarged(maps: Tensor, masks: Tensor) -> Tensor:
    return upsampled(maps, (masks.shape[-2], masks.shape[-1]))


def _scaled(maps: Tensor) -> Tensor:
    """Divided by the largest magnitude of each; a map of zeros stays one."""
    largest = maps.abs().amax((-2, -1), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1.0)


def _reduced(each: _Each, maps: Tensor, masks: Tensor, reduction: str) -> Tensor:
    if maps.shape[:2] != masks.shape[:2]:
        raise InvalidInput(
            f"There are maps of shape {tuple(maps.shape)} and masks of shape "
            f"{tuple(masks.shape)}; the rule is one mask for each map. Leave out the maps of "
            "targets without a mask."
        )
    if not bool(masks.flatten(2).any(dim=2).all()):
        raise InvalidInput(
            "A mask is empty: attribution can lie nowhere in it. Leave out the maps of targets "
            "without annotation, and crops that do not show the object."
        )
    if reduction not in get_args(Reduction):
        raise UnknownName("reduction", reduction, get_args(Reduction))
    losses = each(maps if maps.dtype == torch.float64 else maps.float(), masks)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()
