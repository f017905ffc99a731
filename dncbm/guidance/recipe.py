"""One guided training as a value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from dncbm.bcos.originals import FAMILIES
from dncbm.config import check_types, checked_fields
from dncbm.data.annotations.collection import Kind
from dncbm.encoders.spec import BCOS, GUIDED
from dncbm.errors import InvalidInput, UnknownName
from dncbm.guidance.train import GuidedTraining

SCRATCH: Final = "scratch"
SCHEMES = (*FAMILIES, SCRATCH, BCOS, GUIDED)
TASKS = ("auto", "single", "multi")
_HELP = (
    "A model to guide is torchvision:NAME, timm:NAME (with @FILE for own weights), scratch:NAME, "
    "bcos:DIR, guided:DIR, or the model directory of a bottleneck with --concept."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuideRecipe:
    """All choices of one guided training."""

    model: str
    """`torchvision:NAME[@FILE]`, `timm:NAME[@FILE]`, `scratch:NAME`, `bcos:DIR`, `guided:DIR`, or a
    model directory, whose concepts are guided."""
    data: str | None = None
    dataset: str | None = None
    annotations: str | None = None
    """Boxes or masks, as `read_annotations` takes them; None: beside the photos."""
    format: str | None = None
    """Of the annotations; None: by their names."""
    task: str = "auto"
    """`single`: classes of the photos; `multi`: all annotated classes that a photo shows; `auto`:
    the first where photos have classes."""
    guided: Sequence[str] = ()
    """Classes whose attribution is guided; none: all."""
    relabel: bool = False
    """All boxes of a photo are of the photo's own class, whatever they are called."""
    kind: str = "boxes"
    """`boxes` or `segments`."""
    fraction: float = 1.0
    """Share of the annotated training photos whose boxes are used."""
    dilation: float = 0.0
    """Share of its width and height by which a box grows on each side, in training. Validation and
    test photos are judged by the boxes that were given."""
    weights: Sequence[float] = (1.0,)
    """λ; several are trained one after the other, and the best is chosen on validation."""
    tolerance: float | None = None
    """Share of the classification that may be lost for a better EPG; None: half a point, or one
    standard error on the validation photos where that is more, up to five points; nothing where
    all weights are 0, since no reasons are asked for."""
    crops: bool = True
    """Train on random crops and mirrored photos; False: on whole photos, as the paper does."""
    size: int | None = None
    """Height and width of the pixels; None: what the model takes."""
    concepts: Mapping[str, str] = field(default_factory=dict)
    """Of a model directory: name of a concept to the label in whose boxes it should lie."""
    forbid: Sequence[str] = ()
    """Of a model directory: concepts that no decision may use."""
    teacher_weight: float = 1.0
    """Of the cosine to the embeddings before guidance."""
    forbid_weight: float = 1.0
    """Of what forbidden concepts contribute while the tower is trained."""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    """Of `scratch:NAME`: settings of `create_model`, such as `small_inputs`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `GuidedTraining` but `weight`."""
    seed: int = 0
    device: str = "auto"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "GuideRecipe":
        """The recipe with these fields, as JSON and TOML have them.

        Raises:
            UnknownName: a field that no recipe has.
            InvalidInput: no model, a value of another type, or one that breaks a rule.
        """
        if "model" not in values:
            raise InvalidInput(f"No model is given. {_HELP}")
        return cls(**checked_fields(cls, values, "recipe"))

    def __post_init__(self) -> None:
        check_types(self)
        if self.task not in TASKS:
            raise UnknownName("task", self.task, TASKS)
        if self.kind not in ("boxes", "segments"):
            raise UnknownName("kind of annotation", self.kind, ("boxes", "segments"))
        if self.dilation and self.kind == "segments":
            raise InvalidInput("Segments cannot be dilated; use kind='boxes' or dilation 0.")
        if not 0 < self.fraction <= 1:
            raise InvalidInput(f"fraction is {self.fraction}; the rule is a share in (0, 1].")
        if self.tolerance is not None and not 0 <= self.tolerance <= 1:
            raise InvalidInput(f"tolerance is {self.tolerance}; the rule is a share in [0, 1].")
        if not self.weights:
            raise InvalidInput("No weight is given; the rule is one number of at least 0, or more.")
        if self.architecture and self.scheme != SCRATCH:
            raise InvalidInput(
                f"{self.model} has an architecture of its own; settings of it are for scratch:NAME."
            )
        if self.size is not None and self.size < 1:
            raise InvalidInput(f"size is {self.size}; it must be at least 1.")

    @property
    def annotated_by(self) -> Kind:
        """Boxes or segments."""
        return "segments" if self.kind == "segments" else "boxes"

    @property
    def scheme(self) -> str | None:
        """How the model is named; None for a model directory.

        Raises:
            UnknownName: a scheme that there is not.
        """
        scheme, colon, _ = self.model.partition(":")
        if colon and scheme not in SCHEMES and "/" not in scheme:
            raise UnknownName("model to guide", self.model, [f"{s}:" for s in SCHEMES], _HELP)
        return scheme if colon and scheme in SCHEMES else None

    def configs(self, *, multiple: bool, is_bcos: bool) -> list[GuidedTraining]:
        """How to train, once for each weight.

        Raises:
            UnknownName: a setting that training does not have, or a value of it.
            InvalidInput: a value that breaks a rule.
        """
        known = [item.name for item in fields(GuidedTraining) if item.name != "weight"]
        for name in self.training:
            if name not in known:
                raise UnknownName("training setting", name, known)
        single = "uniform-off-label" if is_bcos else "cross-entropy"
        chosen = {"label_loss": "bce" if multiple else single, "seed": self.seed, **self.training}
        return [GuidedTraining(**{**chosen, "weight": float(weight)}) for weight in self.weights]
