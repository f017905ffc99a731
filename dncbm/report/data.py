"""What a report shows, as plain values: nothing here computes, loads or draws.

Every part may be left empty; its section is then left out. Pictures are encoded bytes
(`dncbm.report.pictures.thumbnail` makes small JPEGs).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dncbm.errors import InvalidInput
from dncbm.types import ConceptName, Prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyRow:
    """One line of the accuracy table."""

    name: str
    """For example `Linear probe` or `DN-CBM, 5 concepts per class`."""
    correct: int
    total: int
    """Images of the test split, > 0."""
    effective_concepts: int | float | None = None
    """Non-zero weights per class; `None` where the classifier uses no concepts."""
    note: str = ""
    baseline: bool = False
    """Whether it is drawn as a reference line in the plot of accuracy against NEC."""

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total or self.total == 0:
            raise InvalidInput(
                f"Accuracy row {self.name!r} has {self.correct} of {self.total} correct; "
                "give 0 <= correct <= total and a total of at least 1."
            )

    @property
    def accuracy(self) -> float:
        """Fraction of correct answers, in [0, 1]."""
        return self.correct / self.total


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One measured quantity with what it means."""

    name: str
    value: float | int | str
    meaning: str = ""
    unit: str = ""
    """`%` shows a fraction in [0, 1] as percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityRow:
    """One measure of the dictionary with how to read it; no measure stands for the others."""

    name: str
    says: str
    """What it measures."""
    good: str
    """What a good value looks like."""
    misleads: str
    """When it looks good or bad without being so."""
    train: float | None = None
    held_out: float | None = None
    """On photos that trained nothing. `None` where it was not measured."""
    unit: str = ""
    """`%` shows a fraction in [0, 1] as percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A small picture of an example."""

    image: bytes
    """Encoded JPEG or PNG."""
    caption: str = ""
    """For example its label; shown as alternative text and tooltip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptCard:
    """A concept in the gallery."""

    name: ConceptName
    density: float
    """Fraction of images in which the concept is active, in [0, 1]."""
    thumbnails: Sequence[Thumbnail] = ()
    """Images in which it is strongest, best first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedConcept:
    """A concept with a number: a mean centred code or a probe weight."""

    concept: int
    name: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassExplanation:
    """What the model sees in a class (codes) and what it looks for (weights)."""

    name: str
    images: int
    """Images of the class that the mean codes were computed on."""
    concepts: Sequence[WeightedConcept] = ()
    """Largest class-mean centred codes, largest first."""
    weights: Sequence[WeightedConcept] = ()
    """Largest weights of the probe by absolute value, largest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalExplanation:
    """One photo and the sum that decided about it."""

    image: bytes
    """Encoded JPEG or PNG."""
    title: str
    """For example the file name."""
    prediction: Prediction
    true_class: str | None = None
    """`None` where it is not known."""
    alternatives: Sequence[Prediction] = ()
    """The next best classes; only class and probability are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """How often images of one class (rows) were taken for another (columns)."""

    classes: Sequence[str]
    counts: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        size = len(self.classes)
        if len(self.counts) != size or any(len(row) != size for row in self.counts):
            raise InvalidInput(
                f"The confusion matrix has {len(self.counts)} rows of "
                f"{sorted({len(row) for row in self.counts})} columns for {size} classes; "
                "give one row and one column per class."
            )


DEFAULT_CAVEATS = (
    "Names are labels given afterwards: each concept is a direction in the encoder's space, and "
    "its name is the word whose text embedding is nearest to its images (by the paper's rule, to "
    "the direction itself). A low score means that no word fits well. Judge a concept by its "
    "pictures, not by its name alone.",
    "The encoder's view is the limit. What it learned from its training data, including social "
    "and cultural bias and confusions between things that look alike or occur together, is "
    "present in the concepts and in the decisions.",
    "A contribution says what the classifier used, exactly. It does not say that the concept "
    "causes the class, nor that the concept is visible in the photo.",
    "Accuracies hold for photos like those of the test split. For other photos, measure again.",
    "The number of concepts per class bounds what an explanation leaves out. With the dense "
    "classifier many small contributions are summed in the line 'all other concepts'.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """Everything that the report shows."""

    dataset: str
    """For example `clothing (2,746 photos, 10 classes)`."""
    encoder: str
    created: str
    """ISO 8601 date or time."""
    recipe: Mapping[str, str] = field(default_factory=dict)
    """How the model was made: command, presets, seed."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Fingerprint of each input artifact by its role."""
    splits: Mapping[str, int] = field(default_factory=dict)
    """Number of images per split."""

    accuracies: Sequence[AccuracyRow] = ()
    nec_curve: Sequence[tuple[int | float, float]] = ()
    """Pairs of concepts per class and accuracy in [0, 1]."""

    sae_metrics: Sequence[QualityRow] = ()
    densities: Sequence[float] = ()
    """Density of every concept, in [0, 1]."""

    naming: Sequence[Metric] = ()
    scores: Sequence[float] = ()
    """Score of every concept's name, in [-1, 1]."""
    score_threshold: float | None = None
    """Concepts under it count as unnamed."""

    concepts: Sequence[ConceptCard] = ()
    """The gallery, most interesting first; at most 60 are shown."""
    num_concepts: int = 0
    """Size of the dictionary."""
    classes: Sequence[ClassExplanation] = ()
    explanations: Sequence[LocalExplanation] = ()
    confusion: Confusion | None = None
    caveats: Sequence[str] = DEFAULT_CAVEATS
