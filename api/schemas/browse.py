"""What browsing answers."""

from pydantic import Field

from api.schemas import ConceptDetail, _Schema


class NecAccuracy(_Schema):
    """Accuracy of the head with that many concepts per class."""

    effective_concepts: int
    accuracy: float


class ConfidenceBinOut(_Schema):
    """Images whose confidence lies in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float = Field(description="Mean probability of the predicted class.")
    accuracy: float


class CalibrationOut(_Schema):
    """How far the probabilities can be believed."""

    temperature: float
    ece: float = Field(description="Expected calibration error before the temperature.")
    ece_calibrated: float
    bins: list[ConfidenceBinOut] = Field(description="Of the calibrated probabilities.")


class ConfusionOut(_Schema):
    """Images by true class (row) and predicted class (column)."""

    classes: list[str]
    counts: list[list[int]]


class ConceptPush(_Schema):
    """What a concept adds to the wrong class beyond the right one, on average."""

    concept: int
    name: str
    contribution: float


class ConfusedBy(_Schema):
    """Images of one class that were taken for another, and the concepts behind it."""

    true: str
    predicted: str
    images: int
    concepts: list[ConceptPush]


class ModelEvaluation(_Schema):
    """What a model achieves on its own images."""

    model: str
    split: str | None = Field(description="Where it was measured.", examples=["test"])
    images: int | None
    accuracy: float | None = Field(description="Of the dense probe, in [0, 1].")
    nec: list[NecAccuracy]
    calibration: CalibrationOut | None
    random_control: dict[str, object] | None = Field(
        description="The same measured with random concepts, where it was."
    )
    confusion: ConfusionOut | None
    confused_by: list[ConfusedBy] = Field(description="The most frequent mistakes first.")
    reason: str | None = Field(description="Why something is missing.")


class MapOut(_Schema):
    """Concepts on a plane, as parallel lists; places in [-1, 1]."""

    method: str = Field(examples=["pca+tsne"])
    is_final: bool = Field(description="False: a better map is being computed, ask again.")
    concepts: list[int]
    names: list[str]
    x: list[float]
    y: list[float]
    density: list[float | None] = Field(description="Fraction of images with the concept.")


class HistogramOut(_Schema):
    """Codes above 0 of a concept in training images; bar i holds codes in (edge i, edge i + 1]."""

    edges: list[float]
    counts: list[int]
    inactive: int = Field(description="Images in which the code is 0.")
    images: int = Field(description="Images looked at, at most 20,000.")
    total: int = Field(description="Images there are.")


class ClassWeight(_Schema):
    """The weight of a class for a concept."""

    class_name: str = Field(serialization_alias="class", examples=["Shoes"])
    weight: float


class ConceptPage(ConceptDetail):
    """A concept with its alternatives, how strong it gets, and who looks for it."""

    histogram: HistogramOut | None = Field(description="null without the model's embeddings.")
    classes: list[ClassWeight] = Field(description="Weights that are not 0, largest first.")


class StrongConcept(_Schema):
    """A concept found in a photo."""

    concept: int
    name: str
    code: float


class StrongConcepts(_Schema):
    """The concepts strongest in a photo, strongest first."""

    image: str = Field(description="File name as sent.", examples=["photo.jpg"])
    matches: list[StrongConcept]


class SharedConcept(_Schema):
    """A concept that two photos have in common."""

    concept: int
    name: str


class SimilarImage(_Schema):
    """A training image that is like the photo."""

    row: int
    item_id: str
    similarity: float = Field(description="Cosine of the codes, in (0, 1].")
    thumbnail: str | None = Field(description="Address of a small picture, where there is one.")
    shared: list[SharedConcept] = Field(description="What adds most to it, most first.")


class SimilarAnswer(_Schema):
    """Training images most alike in concept space, best first."""

    image: str = Field(description="File name as sent.", examples=["photo.jpg"])
    images: int = Field(description="Training images compared with, at most 20,000.")
    total: int = Field(description="Training images there are.")
    matches: list[SimilarImage]
