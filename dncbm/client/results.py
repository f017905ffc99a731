"""What the client hands out: the answers of the service as dataclasses."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dncbm.types import ConceptStatus, Prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A served model."""

    id: str
    dictionary: str
    classes: tuple[str, ...]
    num_concepts: int
    effective_concepts: tuple[int, ...]
    details: dict[str, Any] = field(default_factory=dict)
    """Recipe and measurements; only where one model is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassSummary:
    """A class of a model."""

    index: int
    class_name: str
    bias: float
    effective_concepts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """The weight of a class for a concept."""

    concept: int
    name: str
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePrediction(Prediction):
    """The best class of a photo, with the next ones."""

    image: str
    alternatives: tuple[Prediction, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    """Where in a photo one target comes from; pictures are PNG as data addresses."""

    kind: str
    name: str
    index: int | None
    value: float
    position: float | None
    bias: float | None
    method: str
    exact: bool
    heat: str
    picture: str | None
    map: list[Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageExplanation:
    """The maps of a photo; `seen` is the part that the encoder sees."""

    image: str
    seen: str
    attributions: tuple[Map, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedConcept:
    """A code before and after an intervention."""

    concept: int
    name: str
    code_before: float
    code_after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Intervention:
    """The decision about a photo before and after codes were changed."""

    image: str
    before: ImagePrediction
    after: ImagePrediction
    changed: tuple[ChangedConcept, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DictionarySummary:
    """A dictionary of concepts."""

    id: str
    num_concepts: int
    named: int
    unique_names: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """A concept with the evidence for its name."""

    concept: int
    name: str
    status: ConceptStatus
    score: float | None
    margin: float | None
    group: int
    density: float | None
    mean_code: float | None
    max_code: float | None
    weight: float | None = None
    """Of the class asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredName:
    """A name that came next."""

    name: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Codes above 0 of a concept, in `images` of `total` training images."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    inactive: int
    images: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassWeight:
    """The weight of a class for a concept."""

    class_name: str
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptDetail(Concept):
    """A concept with all that is known about it."""

    alternatives: tuple[ScoredName, ...]
    histogram: Histogram | None
    classes: tuple[ClassWeight, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """An image in which a concept is strong."""

    rank: int
    item_id: str
    row: int
    code: float
    thumbnail: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A concept found by text."""

    concept: int
    name: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StrongConcept:
    """A concept found in a photo."""

    concept: int
    name: str
    code: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedConcept:
    """A concept that two photos have in common."""

    concept: int
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarImage:
    """A training image like a photo."""

    row: int
    item_id: str
    similarity: float
    thumbnail: str | None
    shared: tuple[SharedConcept, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptMap:
    """Concepts on a plane, as parallel lists; a better one is being computed unless `is_final`."""

    method: str
    is_final: bool
    concepts: tuple[int, ...]
    names: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    density: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NecAccuracy:
    """Accuracy of the head with that many concepts per class."""

    effective_concepts: int
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """Images by true class (row) and predicted class (column)."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptPush:
    """What a concept adds to the wrong class beyond the right one."""

    concept: int
    name: str
    contribution: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusedBy:
    """Images of one class that were taken for another."""

    true: str
    predicted: str
    images: int
    concepts: tuple[ConceptPush, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What a model achieves; `reason` says why something is missing."""

    accuracy: float | None
    images: int | None
    split: str | None
    nec: tuple[NecAccuracy, ...]
    calibration: dict[str, Any] | None
    random_control: dict[str, Any] | None
    confusion: Confusion | None
    confused_by: tuple[ConfusedBy, ...]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassAccuracy:
    """Accuracy of a class before and after an edit."""

    class_name: str
    images: int
    accuracy_before: float
    accuracy_after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EditEvaluation:
    """What an edit costs."""

    split: str
    images: int
    accuracy_before: float | None
    accuracy_after: float | None
    per_class: tuple[ClassAccuracy, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """An edit of a model; `status` is draft, evaluated, active, superseded or reverted."""

    id: int
    model: str
    parent: int | None
    operations: tuple[dict[str, Any], ...]
    author: str | None
    reason: str | None
    created: datetime
    status: str
    evaluation: EditEvaluation | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage of a job; `status` is waiting, running, done or failed."""

    name: str
    status: str
    done: int | None
    total: int | None
    rate: float | None
    eta_seconds: float | None
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A pipeline run; `status` is queued, running, succeeded, failed or cancelled."""

    id: str
    name: str
    pipeline: str
    config: dict[str, Any]
    status: str
    priority: int
    created: datetime
    started: datetime | None
    finished: datetime | None
    stages: tuple[Stage, ...]
    error: str | None
    model: str | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """A line of a job's log."""

    time: datetime
    level: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptDrift:
    """How a concept occurs in photos of users against training."""

    concept: int
    name: str
    density_training: float | None
    density_live: float | None
    mean_training: float | None
    mean_live: float | None
    shift: float | None
    p_value: float | None
    examples: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Whether the photos of users differ from those of training."""

    model: str
    enabled: bool
    images: int
    since: datetime | None
    concepts: tuple[ConceptDrift, ...]
    images_shifted: float | None = None
