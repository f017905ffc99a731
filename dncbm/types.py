"""The items that travel through dncbm, and the letters that name tensor axes.

Axis legend, used in every jaxtyping annotation of the library:

    n  images (rows)          d  embedding width          c  concepts
    k  classes                v  vocabulary entries       h, w  pixels

Words are fixed by the glossary in the documentation: embeddings (n, d), codes (n, c),
dictionary (c, d) with unit-norm rows, probe weights (k, c), contribution = code x weight.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

ConceptStatus = Literal["named", "unnamed", "blocked"]
ListedBy = Literal["concept", "name"]
"""What a listed contribution stands for: one concept, or all concepts of one name."""
TargetKind = Literal["class", "concept", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptName:
    """The name of one dictionary row, with the evidence for it."""

    concept: int
    """Row of the dictionary."""
    name: str
    """A vocabulary entry, or `concept <index>` where the status is not `named`."""
    score: float
    """Cosine between what the name was compared with (`NamingConfig.direction`) and the word,
    in [-1, 1]."""
    margin: float
    """Best score of any vocabulary entry minus that of the next, >= 0."""
    alternatives: tuple[tuple[str, float], ...]
    """The next best entries with their scores, best first."""
    status: ConceptStatus
    """`named`; `unnamed` (score under the threshold); `blocked` (hidden by a block list)."""
    group: int
    """Concepts whose names are equal, or so alike that the encoder cannot tell them apart, share
    a group: the lowest concept index among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """What one concept, or all of one name, add to one class logit.

    It is code x weight, rounded so that sums are exact.
    """

    concept: int
    """The concept, or of several the one that adds or takes most."""
    name: str
    code: float
    """Of the concept, or the sum over `concepts`."""
    weight: float
    """Of the concept, or the mean over `concepts`, each counted by its code."""
    contribution: float
    concepts: tuple[int, ...] = ()
    """What was summed where it is more than one concept, largest absolute contribution first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One class for one image; `logit == bias + sum(contributions) + remainder`."""

    class_name: str
    class_index: int
    probability: float
    """Softmax over all classes, in [0, 1]."""
    logit: float
    bias: float
    remainder: float
    """Sum of the contributions that are not listed, computed so that the sum is exact."""
    contributions: tuple[Contribution, ...] = field(default=())
    """Largest by absolute value first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedCode:
    """The code of one concept in one image, before and after an intervention."""

    concept: int
    name: str
    code_before: float
    code_after: float


@dataclass(frozen=True, slots=True)
class Intervention:
    """The decision about one image before and after some of its codes were changed."""

    before: tuple[Prediction, ...]
    """Best class first."""
    after: tuple[Prediction, ...]
    """Best class first; the same weights, other codes."""
    changed: tuple[ChangedCode, ...]
    """In the order of the changes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Attribution:
    """Where in an image one target comes from.

    If exact, `value == map.sum() + position + bias` up to rounding; a post hoc method tells where,
    not how much.
    """

    kind: TargetKind
    """Logit of a class, code of a concept, or cosine with a text."""
    name: str
    index: int | None
    """Of the class or the concept."""
    value: float
    map: np.ndarray
    """(h, w) float32: what each pixel of the image, as the encoder sees it, contributes."""
    position: float | None
    """What positions in the image add, whatever is there; None post hoc."""
    bias: float | None
    """What does not depend on the image; None post hoc."""
    method: str
    exact: bool
    picture: np.ndarray | None
    """(h, w, 4) RGBA in [0, 1]: what the encoder looks for, where it found it; None post hoc."""
