"""The linear head over codes, and the exact account of what each concept adds to a logit."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from dncbm.errors import InvalidInput

_GRID_BITS = 51
_SMALLEST_EXPONENT = -900


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogitAccount:
    """One logit taken apart; `logit == bias + sum(contributions) + remainder`, bit for bit.

    Every number is a multiple of one power of two (about 1e-15 of the sum of absolute
    contributions) and no partial sum exceeds 53 bits, so the sum is exact in *any* order and
    with any summation routine, also after a round trip through JSON. A contribution therefore
    is `code * weight` rounded to that grid.
    """

    concepts: Int[np.ndarray, " top"]
    """Index of each listed concept, or of the first of its `members`; largest absolute
    contribution first."""
    codes: Float64[np.ndarray, " top"]
    """Of the concept, or the sum over the members."""
    weights: Float64[np.ndarray, " top"]
    """Of the concept, or the mean over the members, each counted by its code."""
    contributions: Float64[np.ndarray, " top"]
    members: tuple[tuple[int, ...], ...]
    """Per listed part the concepts that it sums, largest absolute contribution first."""
    bias: float
    remainder: float
    """Sum of all contributions that are not listed."""
    logit: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Linear map from codes to class logits: `logits = codes @ weights.T + bias`.

    Raises:
        InvalidInput: shapes that do not belong together, fewer than two classes, repeated
            class names, numbers that are not finite.
    """

    weights: Float[Tensor, "k c"]
    bias: Float[Tensor, " k"]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        _check_parts(self.weights, self.bias, self.classes)

    @property
    def num_classes(self) -> int:
        """k, the number of classes."""
        return len(self.classes)

    @property
    def num_concepts(self) -> int:
        """c, the number of concepts the probe reads."""
        return int(self.weights.shape[1])

    def effective_concepts(self) -> float:
        """NEC: the mean number of non-zero weights per class."""
        return float((self.weights != 0).sum()) / self.num_classes

    def logits(self, codes: Float[Tensor, "n c"]) -> Float64[Tensor, "n k"]:
        """Class logits of each row, computed in float64.

        Raises:
            InvalidInput: codes of another width than the probe's.
        """
        self._check_width(int(codes.shape[1]))
        weights = self.weights.to(codes.device, torch.float64)
        return codes.double() @ weights.T + self.bias.to(codes.device, torch.float64)

    def contributions(
        self,
        codes_row: Float[Tensor, " c"],
        class_index: int,
        top: int = 5,
        groups: Int[np.ndarray, "_"] | None = None,
    ) -> LogitAccount:
        """The logit of one class for one image, taken apart into its `top` contributions.

        What adds exactly nothing is not listed (a concept, or a group whose members cancel), so
        fewer than `top` may come back.

        Args:
            codes_row: non-negative codes of the image.
            class_index: which logit.
            top: how many concepts, or groups, to list.
            groups: (c,) concepts of one number are listed as one part, the sum of those of them
                that contribute; None lists each concept by itself.

        Raises:
            InvalidInput: wrong width, codes that are not finite, an index outside the
                classes, a negative `top`, another number of groups than of concepts, or groups
                with a negative code: their mean weight would mean nothing.
        """
        self._check_width(int(codes_row.shape[0]))
        self._check_class(class_index)
        if top < 0:
            raise InvalidInput(f"top must be >= 0, got {top}: it is how many parts to list.")
        codes = codes_row.detach().cpu().double().numpy()
        if not np.isfinite(codes).all():
            raise InvalidInput("The codes hold NaN or infinity; encode the image again.")
        if groups is not None:
            self._check_groups(groups, codes)
        weights = self.weights[class_index].detach().cpu().double().numpy()
        return _account(codes, weights, float(self.bias[class_index]), groups, top)

    def _check_width(self, width: int) -> None:
        if width != self.num_concepts:
            raise InvalidInput(
                f"The codes have {width} concepts, the probe reads {self.num_concepts}. "
                "Use the codes of the dictionary that the probe was trained on."
            )

    def _check_groups(self, groups: np.ndarray, codes: np.ndarray) -> None:
        if groups.shape != (self.num_concepts,):
            raise InvalidInput(
                f"groups has {len(groups)} numbers, the probe reads {self.num_concepts} concepts. "
                "Give one group per concept, such as ConceptName.group."
            )
        if (codes < 0).any():
            raise InvalidInput(
                f"A code is {codes.min():.3g}; codes of groups must be at least 0, as those of "
                "every autoencoder here. Leave out groups to list concepts one by one."
            )

    def _check_class(self, class_index: int) -> None:
        if not 0 <= class_index < self.num_classes:
            raise InvalidInput(
                f"Class index {class_index} does not exist: the probe has classes "
                f"0 to {self.num_classes - 1}."
            )


def _check_parts(weights: Tensor, bias: Tensor, classes: tuple[str, ...]) -> None:
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise InvalidInput(
            f"A probe needs at least two distinct classes, got {len(classes)} "
            f"({', '.join(classes[:5])})."
        )
    if weights.shape[0] != len(classes):
        raise InvalidInput(
            f"The weights have {weights.shape[0]} rows for {len(classes)} classes; "
            "each class needs one row."
        )
    if not (torch.isfinite(weights).all() and torch.isfinite(bias).all()):
        raise InvalidInput("The probe's weights or bias hold NaN or infinity; train it again.")


def _account(
    codes: Float64[np.ndarray, " c"],
    weights: Float64[np.ndarray, " c"],
    bias: float,
    groups: Int[np.ndarray, " c"] | None,
    top: int,
) -> LogitAccount:
    (active,) = codes.nonzero()  # a few of many; all that follows costs by their number
    codes, weights = codes[active], weights[active]
    # A grid on which all partial sums are exact: total < 2**exponent, so every value is an
    # integer below 2**51 times the grid, and sums stay below 2**53.
    with np.errstate(over="ignore"):
        products = codes * weights
        total = abs(bias) + float(np.abs(products).sum())
    if not math.isfinite(total):
        raise InvalidInput("The contributions are too large for a sum; scale codes or weights.")
    exponent = max(math.frexp(total)[1], _SMALLEST_EXPONENT)
    shift = _GRID_BITS - exponent
    steps = np.rint(np.ldexp(products, shift))
    bias_steps = float(round(math.ldexp(bias, shift)))
    members: Iterable[np.ndarray]
    if groups is None:
        places, sums = _largest(steps, top)
        members = places[:, None]
        summed, means = codes[places], weights[places]
    else:
        members, sums = _largest_groups(steps, groups[active], top)
        places = np.array([some[0] for some in members], dtype=np.int64)
        summed = np.array([codes[some].sum() for some in members])
        merged = np.array([len(some) > 1 for some in members], dtype=bool)
        means = np.divide(np.ldexp(sums, -shift), summed, out=weights[places], where=merged)
    logit_steps = bias_steps + float(steps.sum())
    remainder_steps = logit_steps - bias_steps - float(sums.sum())
    return LogitAccount(
        concepts=active[places],
        codes=summed,
        weights=means,
        contributions=np.ldexp(sums, -shift),
        members=tuple(tuple(active[some].tolist()) for some in members),
        bias=math.ldexp(bias_steps, -shift),
        remainder=math.ldexp(remainder_steps, -shift),
        logit=math.ldexp(logit_steps, -shift),
    )


def _largest(
    steps: Float64[np.ndarray, " c"], top: int
) -> tuple[Int[np.ndarray, " top"], Float64[np.ndarray, " top"]]:
    """As `_largest_groups` where each concept is a group of itself."""
    listed = np.argsort(-np.abs(steps), kind="stable")[: min(top, np.count_nonzero(steps))]
    return listed, steps[listed]


def _largest_groups(
    steps: Float64[np.ndarray, " c"], groups: Int[np.ndarray, " c"], top: int
) -> tuple[list[np.ndarray], Float64[np.ndarray, " top"]]:
    """Members and sum of the largest groups; ties go to the group of the lowest concept."""
    active = np.flatnonzero(steps)
    _, first, place = np.unique(groups[active], return_index=True, return_inverse=True)
    sums = np.zeros(len(first))
    np.add.at(sums, place, steps[active])
    listed = np.lexsort((first, -np.abs(sums)))[:top]
    listed = listed[sums[listed] != 0]
    strongest = active[np.argsort(-np.abs(steps[active]), kind="stable")]
    members = [strongest[groups[strongest] == groups[active[first[one]]]] for one in listed]
    return members, sums[listed]
