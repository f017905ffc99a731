"""What a report on localisation shows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One method at one layer in one setting."""

    method: str
    layer: str
    """As it was asked for, such as `middle`."""
    module: str
    """Its name in the network; empty for the input."""
    setting: str
    side: int
    """Cells along a side."""
    smooth: int
    """Kernel of the Gaussian; 1 is none."""
    scores: Float[np.ndarray, "maps"]
    chance: float
    means: Float[np.ndarray, "bins h w"]
    """Mean maps for the top-left cell, best first."""
    counts: tuple[int, ...]
    """Maps in each bin."""
    normaliser: float
    """Of all bins."""
    example: Float[np.ndarray, "y x"]
    """The signed map of the first picture's first scored cell."""
    mask: Bool[np.ndarray, "y x"]
    """Where that map should lie."""

    @property
    def title(self) -> str:
        """The method, with its smoothing."""
        return self.method if self.smooth == 1 else f"{self.method}, K={self.smooth}"

    def summary(self) -> dict[str, Any]:
        """The numbers of tables."""
        return {
            "method": self.method, "layer": self.layer, "module": self.module,
            "setting": self.setting, "side": self.side, "smooth": self.smooth,
            "mean": float(self.scores.mean()), "sd": float(self.scores.std()),
            "median": float(np.median(self.scores)), "chance": self.chance,
            "maps": len(self.scores),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalisationReport:
    """Everything that was measured."""

    model: str
    targets: str
    """`classes` or `concepts`."""
    parts: tuple[Part, ...]
    undefined: tuple[Mapping[str, Any], ...]
    """Settings, and methods in them, that the network does not have: with their reason."""
    pictures: Mapping[tuple[str, int], tuple[UInt8[np.ndarray, "h w 3"], str]]
    """The first picture of each setting and side, and the class of its first cell."""
    photos: int
    """That grids are made of."""
    seen: int
    """That were looked at."""
    recipe: Mapping[str, Any]
    fingerprints: Mapping[str, str]


def unique(items: Iterable[T]) -> list[T]:
    """Each once, in order."""
    return list(dict.fromkeys(items))


def layers_of(parts: Sequence[Part]) -> list[str]:
    """Layers in the order in which they were given."""
    return unique(part.layer for part in parts)
