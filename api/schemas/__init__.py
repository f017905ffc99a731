"""What travels over the wire; kept apart from `dncbm.types` so that either may change."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dncbm.types import ConceptStatus, Contribution, Prediction, TargetKind

Sort = Literal["concept", "density", "score", "margin", "mean_code", "max_code", "weight"]
Order = Literal["asc", "desc"]


class _Schema(BaseModel):
    model_config = ConfigDict(populate_by_name=True, protected_namespaces=())


class Problem(_Schema):
    """An error, as in RFC 9457."""

    type: str = Field(examples=["urn:dncbm:problem:invalid-input"])
    title: str = Field(examples=["Invalid input"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["Image 'photo.jpg' cannot be used: it is truncated."])
    instance: str = Field(examples=["/v1/models/clothing/predict"])
    request_id: str | None = Field(
        default=None, description="As in the header X-Request-ID.", examples=["8c1f2a9b4e6d7035"]
    )


class PredictBody(_Schema):
    """Images as base64 text, with or without a `data:` prefix."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1, examples=[["iVBORw0KGgoAAAANSUhEUg..."]])


class ContributionOut(_Schema):
    """What a concept, or all of one name, add to the logit: `contribution` = `code` × `weight`."""

    concept: int = Field(description="Of several the one that adds or takes most.")
    name: str
    code: float = Field(description="Of the concept, or the sum over `concepts`.")
    weight: float = Field(
        description="Of the concept, or the mean over `concepts`, each counted by its code."
    )
    contribution: float
    concepts: list[int] = Field(
        description="What was summed where it is more than one concept, strongest first; "
        "else empty."
    )

    @classmethod
    def of(cls, item: Contribution) -> "ContributionOut":
        """Wire form of a contribution."""
        return cls(
            concept=item.concept,
            name=item.name,
            code=item.code,
            weight=item.weight,
            contribution=item.contribution,
            concepts=list(item.concepts),
        )


class ClassScore(_Schema):
    """One class: `logit` = `bias` + all listed `contributions` in order + `remainder`."""

    class_name: str = Field(serialization_alias="class", examples=["Shoes"])
    class_index: int
    probability: float = Field(description="Calibrated, over all classes.")
    logit: float
    bias: float
    remainder: float = Field(description="Sum of the contributions that are not listed.")
    contributions: list[ContributionOut] = Field(description="Largest by absolute value first.")

    @classmethod
    def of(cls, item: Prediction) -> "ClassScore":
        """Wire form of a prediction."""
        return cls(**_score_fields(item))


class ImagePrediction(ClassScore):
    """The best class of one image; further classes are in `alternatives`."""

    image: str = Field(description="File name as sent.", examples=["photo.jpg"])
    alternatives: list[ClassScore] = Field(description="The next best classes, best first.")

    @classmethod
    def ranked(cls, name: str, ranking: list[Prediction]) -> "ImagePrediction":
        """Wire form of one image's classes, best first."""
        best, *others = ranking
        return cls(
            **_score_fields(best),
            image=name,
            alternatives=[ClassScore.of(item) for item in others],
        )


def _score_fields(item: Prediction) -> dict[str, Any]:
    return {
        "class_name": item.class_name,
        "class_index": item.class_index,
        "probability": item.probability,
        "logit": item.logit,
        "bias": item.bias,
        "remainder": item.remainder,
        "contributions": [ContributionOut.of(part) for part in item.contributions],
    }


class PredictAnswer(_Schema):
    """One entry per image, in the order of the upload."""

    model: str
    predictions: list[ImagePrediction]


class AttributionOut(_Schema):
    """Where in a photo one target comes from."""

    kind: TargetKind = Field(description="Logit of a class, code of a concept, cosine of a text.")
    name: str
    index: int | None = Field(description="Of the class or the concept.")
    value: float
    position: float | None = Field(description="What positions add; null post hoc.")
    bias: float | None = Field(description="What does not depend on the photo; null post hoc.")
    method: str = Field(examples=["bcos", "grad_cam"])
    exact: bool = Field(description="Whether the map, `position` and `bias` sum to `value`.")
    heat: str = Field(
        description="PNG as data address, RGBA: red for, blue against; smoothed for the eye."
    )
    picture: str | None = Field(
        description="PNG as data address, RGBA: what the encoder looks for, where it found it; "
        "null post hoc."
    )
    map: list[list[float]] | None = Field(description="Rows of pixels, if `arrays` was set.")


class ImageExplanation(_Schema):
    """The maps of one photo; all have the size of `seen`."""

    image: str = Field(description="File name as sent.", examples=["photo.jpg"])
    seen: str = Field(description="PNG as data address: the part that the encoder sees.")
    attributions: list[AttributionOut]


class ExplainAnswer(_Schema):
    """One entry per image, in the order of the upload."""

    model: str
    explanations: list[ImageExplanation]


class Page(_Schema):
    """Where a list stands: ask `next` for the following page, `null` at the end."""

    total: int
    limit: int
    offset: int
    next: str | None


class ModelOut(_Schema):
    """A served model."""

    id: str
    dictionary: str = Field(description="Id of its dictionary of concepts.")
    classes: list[str]
    num_concepts: int
    effective_concepts: list[int] = Field(description="Values that `nec` takes, smallest first.")


class ModelDetail(ModelOut):
    """A served model with its recipe and measurements."""

    details: dict[str, Any]


class ModelList(Page):
    """Served models."""

    models: list[ModelOut]


class ClassOut(_Schema):
    """A class of a model."""

    index: int
    class_name: str = Field(serialization_alias="class")
    bias: float
    effective_concepts: int = Field(description="Concepts with a non-zero weight.")


class ClassList(Page):
    """Classes of a model."""

    classes: list[ClassOut]


class WeightOut(_Schema):
    """The probe's weight for one concept."""

    concept: int
    name: str
    weight: float


class ClassWeights(Page):
    """Global explanation of a class: its non-zero weights, largest by absolute value first."""

    index: int
    class_name: str = Field(serialization_alias="class")
    bias: float
    weights: list[WeightOut]


class DictionaryOut(_Schema):
    """A dictionary of concepts."""

    id: str
    num_concepts: int
    named: int
    unique_names: int


class DictionaryList(Page):
    """Served dictionaries."""

    dictionaries: list[DictionaryOut]


class ScoredName(_Schema):
    """A word with its cosine to what naming compared: the concept's images or its direction."""

    name: str
    score: float


class ConceptOut(_Schema):
    """A concept with the evidence for its name."""

    concept: int
    name: str
    status: ConceptStatus
    score: float | None
    margin: float | None
    group: int
    density: float | None = Field(description="Fraction of images in which the concept is active.")
    mean_code: float | None
    max_code: float | None


class ConceptDetail(ConceptOut):
    """A concept with the names that came next."""

    alternatives: list[ScoredName]


class WeightedConcept(ConceptOut):
    """A concept in a list, with its weight for the class that was asked for."""

    weight: float | None = Field(description="Of the class asked for; null where none was.")


class ConceptList(Page):
    """Concepts of a dictionary."""

    concepts: list[WeightedConcept]


class ExampleOut(_Schema):
    """An image in which the concept is strong."""

    rank: int
    item_id: str
    row: int
    code: float
    thumbnail: str | None = Field(description="Address of a small picture, where there is one.")


class ExampleList(Page):
    """Images in which a concept is strongest."""

    concept: int
    name: str
    examples: list[ExampleOut]


class Match(_Schema):
    """A concept found by text."""

    concept: int
    name: str
    score: float = Field(description="Cosine of the concept's direction with the text.")


class SearchAnswer(_Schema):
    """Concepts nearest to a text, best first."""

    text: str
    matches: list[Match]


class Health(_Schema):
    """State of the service."""

    status: Literal["ok", "ready"]
    models: list[str] | None = Field(default=None, description="What is loaded; `/readyz` only.")
    checks: dict[str, str] | None = Field(
        default=None, description="What each part says: `ok`, or why not; `/readyz` only."
    )
    refused: dict[str, str] | None = Field(
        default=None,
        description="Models that are damaged, by id, and why; the others are served. "
        "`/readyz` only.",
    )
