"""Nested reconstructions (Matryoshka): the first concepts alone must reconstruct, too.

A level adds active codes to those of the levels before it, and each level's reconstruction has
its own error. Two forms, which differ in what a level adds:

- `concepts`: the next concepts of the dictionary (Bussmann et al. 2503.17547): the first ones
  learn what is general, later ones what is specific;
- `rank`: the next largest codes of the row (MSAE, Zaigrajew et al. 2502.20578): one dictionary
  that is good at several k.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.sae.active import ActiveCodes, decode_bags

By = Literal["concepts", "rank"]
"""What a level adds: the next concepts of the dictionary, or the next largest codes of a row."""

Weighting = Literal["uniform", "reverse"]
"""Of the levels' errors: all equal, or falling linearly from the first level to the last."""


@dataclass(frozen=True)
class Levels:
    """Where levels end, ascending; the last end is all concepts, or all codes of a row."""

    by: By
    ends: tuple[int, ...]
    weighting: Weighting = "uniform"

    def __post_init__(self) -> None:
        if not self.ends or any(b <= a for a, b in zip((0, *self.ends), self.ends, strict=False)):
            raise InvalidInput(
                f"Levels end at {list(self.ends)}; the rule is at least one end, above 0 and "
                "ascending."
            )

    def weights(self) -> list[float]:
        """Of each level's error; they sum to 1."""
        count = len(self.ends)
        raw = (
            [1.0] * count
            if self.weighting == "uniform"
            else [float(count - i) for i in range(count)]
        )
        return [value / sum(raw) for value in raw]

    def of(self, codes: ActiveCodes) -> Int[Tensor, "m"]:
        """The level that each active code belongs to, from 0."""
        place = codes.concepts if self.by == "concepts" else ranks(codes)
        ends = torch.tensor(self.ends, device=place.device)
        return torch.searchsorted(ends, place, right=True).clamp(max=len(self.ends) - 1)


def ranks(codes: ActiveCodes) -> Int[Tensor, "m"]:
    """Place of each code among its row's, 0 for the largest."""
    by_value = torch.argsort(codes.values.detach(), descending=True, stable=True)
    order = by_value[torch.argsort(codes.rows[by_value], stable=True)]
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order), device=order.device) - codes.starts[codes.rows[order]]
    return found


def nested_reconstructions(
    codes: ActiveCodes, dictionary: Float[Tensor, "c d"], levels: Levels
) -> Float[Tensor, "n levels d"]:
    """The reconstruction of every level, without the pre-bias."""
    count = len(levels.ends)
    bags = codes.rows * count + levels.of(codes)
    order = torch.argsort(bags, stable=True)
    starts = torch.searchsorted(
        bags[order], torch.arange(len(codes.starts) * count, device=bags.device)
    )
    parts = decode_bags(codes.concepts[order], codes.values[order], starts, dictionary)
    return parts.unflatten(0, (len(codes.starts), count)).cumsum(dim=1)
