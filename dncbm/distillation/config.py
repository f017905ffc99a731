"""How a student is distilled."""

from dataclasses import dataclass

from dncbm.config import check_types
from dncbm.distillation.explanations import KINDS, NONE
from dncbm.errors import InvalidInput, UnknownName
from dncbm.training.photos import PhotoTraining


@dataclass(frozen=True, kw_only=True, slots=True)
class Distillation(PhotoTraining):
    """What the student learns from its teacher, and for how long.

    Classifiers learn logits and explanations, encoders embeddings, and students of a concept
    bottleneck embeddings, logits and the contributions of its concepts.
    """

    temperature: float = 1.0
    """T of both softmaxes; 1 and 5 in e2KD."""
    logit_weight: float = 1.0
    """Of the distance of logits."""
    explanation: str = NONE
    """`gradcam`, `ixg`, `intgrad`, `bcos` (W(x)), or `none`."""
    weight: float = 1.0
    """λ of the distance of explanations, or of contributions; 0 only measures them."""
    every: int = 1
    """Explanations are compared in every so many updates: 16 (ResNets) and 4 (ViTs) in e2KD."""
    layer: str | None = None
    """Of the student, for Grad-CAM; None: its last block."""
    teacher_layer: str | None = None
    """Of the teacher, likewise."""
    path_steps: int = 8
    """Of integrated gradients."""
    frozen: bool = False
    """Ask the teacher once per photo instead of once per crop."""
    multi_label: bool = False
    """Classes do not exclude each other: compare each by itself."""
    label_weight: float = 0.0
    """Of the loss on the photos' own labels."""
    embedding_weight: float = 1.0
    """Of the distance of embeddings."""
    relational_weight: float = 0.0
    """Of the distance between the relations of embeddings within a batch."""
    explained_photos: int = 128
    """Held-out photos whose explanations are compared at each checkpoint."""

    def __post_init__(self) -> None:
        check_types(self, "training")
        PhotoTraining.__post_init__(self)  # a class with slots has no super() without arguments
        if self.explanation not in (*KINDS, NONE):
            raise UnknownName("explanation", self.explanation, (*KINDS, NONE))
        for name in ("temperature", "every", "path_steps", "explained_photos"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} is {getattr(self, name)}; the rule is above 0.")
        for name in _WEIGHTS:
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name} is {getattr(self, name)}; the rule is at least 0.")

    @property
    def is_guided(self) -> bool:
        """Whether explanations are learned."""
        return self.explanation != NONE and self.weight > 0


_WEIGHTS = ("logit_weight", "weight", "label_weight", "embedding_weight", "relational_weight")
