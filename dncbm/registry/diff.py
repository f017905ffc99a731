"""What changed between two dictionaries, and between two models.

Concepts have no identity across trainings: those of two dictionaries are matched by the cosine of
their decoder directions. Everything here is a pure function of loaded artifacts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, inference_mode

from dncbm.errors import ArtifactMismatch, InvalidInput
from dncbm.naming.dictionary import Dictionary
from dncbm.probe.model import Probe
from dncbm.probe.store import Cbm
from dncbm.registry.matching import MIN_COSINE, Method, match_directions
from dncbm.sae.model import SaeModel

_BLOCK = 2048
"""Images whose contributions are compared at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedConcept:
    """One concept in both dictionaries."""

    concept_a: int
    concept_b: int
    name_a: str
    name_b: str
    cosine: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoneConcept:
    """A concept without a partner; `cosine` is that with the nearest of the other dictionary."""

    concept: int
    name: str
    cosine: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DictionaryDiff:
    """Two dictionaries side by side; matched concepts by falling cosine, the others in order."""

    method: Method
    min_cosine: float
    kept: tuple[MatchedConcept, ...]
    renamed: tuple[MatchedConcept, ...]
    gained: tuple[LoneConcept, ...]
    """Only in the second."""
    lost: tuple[LoneConcept, ...]
    """Only in the first."""

    @property
    def matched(self) -> tuple[MatchedConcept, ...]:
        """Kept and renamed, by concept of the first."""
        return tuple(sorted(self.kept + self.renamed, key=lambda item: item.concept_a))


def diff_dictionaries(
    a: Dictionary, b: Dictionary, *, min_cosine: float = MIN_COSINE, method: Method | None = None
) -> DictionaryDiff:
    """Concepts kept, renamed, gained and lost from `a` to `b`.

    Two matched concepts without a name count as kept: what they are called is their number.

    Raises:
        ArtifactMismatch: they belong to different encoders.
        InvalidInput: `min_cosine` outside (0, 1].
    """
    _require_same_encoder(a, b)
    found = match_directions(a.directions, b.directions, min_cosine=min_cosine, method=method)
    matched = [
        MatchedConcept(
            concept_a=i, concept_b=j, name_a=a.names[i].name, name_b=b.names[j].name, cosine=cosine
        )
        for (i, j), cosine in zip(found.pairs, found.cosines, strict=True)
    ]
    matched.sort(key=lambda item: -item.cosine)
    same = [_same_name(a, b, item) for item in matched]
    return DictionaryDiff(
        method=found.method,
        min_cosine=min_cosine,
        kept=tuple(item for item, kept in zip(matched, same, strict=True) if kept),
        renamed=tuple(item for item, kept in zip(matched, same, strict=True) if not kept),
        gained=_alone(b, found.nearest_b, {item.concept_b for item in matched}),
        lost=_alone(a, found.nearest_a, {item.concept_a for item in matched}),
    )


def _require_same_encoder(a: Dictionary, b: Dictionary) -> None:
    ours, theirs = (item.manifest.inputs.get("encoder") for item in (a, b))
    if ours != theirs:
        raise ArtifactMismatch(
            f"The dictionaries belong to different encoders ({str(ours)[:12]} and "
            f"{str(theirs)[:12]}), whose directions mean different things. Compare two of one "
            "encoder."
        )


def _same_name(a: Dictionary, b: Dictionary, item: MatchedConcept) -> bool:
    one, other = a.names[item.concept_a], b.names[item.concept_b]
    return one.name == other.name or (one.status == "unnamed" == other.status)


def _alone(
    dictionary: Dictionary, nearest: np.ndarray, matched: set[int]
) -> tuple[LoneConcept, ...]:
    return tuple(
        LoneConcept(concept=i, name=name.name, cosine=float(nearest[i]))
        for i, name in enumerate(dictionary.names)
        if i not in matched
    )


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What of a model is compared; the autoencoder only for contributions on images."""

    dictionary: Dictionary
    cbm: Cbm
    sae: SaeModel | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyChange:
    """Accuracy of one head on one split, where both models were measured."""

    split: str
    head: str
    """`dense`, `nec10`, ..."""
    before: float
    after: float

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightChange:
    """The weight of a matched concept for a class of both models."""

    class_name: str
    concept: MatchedConcept
    before: float
    after: float

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassChange:
    """How much a class of both models changed."""

    class_name: str
    weight_change: float
    """Sum of absolute changes of the weights of matched concepts."""
    weight_lost: float
    """Sum of absolute weights, before, of the concepts that are lost."""
    weight_gained: float
    """Sum of absolute weights, after, of the concepts that are gained."""
    contribution_change: float | None
    """Mean over images of the sum of absolute changes of contributions; None without images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDiff:
    """Two models side by side."""

    dictionary: DictionaryDiff
    accuracy: tuple[AccuracyChange, ...]
    classes_gained: tuple[str, ...]
    classes_lost: tuple[str, ...]
    classes: tuple[ClassChange, ...]
    weights: tuple[WeightChange, ...]
    """Weights that changed, the largest change first."""
    images: int
    """Images on which contributions were compared."""
    decisions_changed: int | None
    """Images whose best class differs; None without images."""


def diff_models(
    a: ModelParts,
    b: ModelParts,
    *,
    embeddings: Float[Tensor, "n d"] | None = None,
    nec: int | None = None,
    min_cosine: float = MIN_COSINE,
) -> ModelDiff:
    """What changed from model `a` to model `b`.

    Args:
        a: the model before.
        b: the model after, of the same encoder.
        embeddings: raw embeddings of images that both decide; contributions are compared on them.
        nec: compare the heads with this number of effective concepts per class.
        min_cosine: directions less alike are different concepts.

    Raises:
        ArtifactMismatch: the models belong to different encoders.
        InvalidInput: a model has no head of that NEC, or embeddings came without autoencoders.
    """
    heads = a.cbm.probe_for(nec), b.cbm.probe_for(nec)
    dictionary = diff_dictionaries(a.dictionary, b.dictionary, min_cosine=min_cosine)
    shared = [name for name in a.cbm.classes if name in b.cbm.classes]
    aligned = _Aligned(heads[0], heads[1], dictionary, shared)
    changes, moved = None, None
    if embeddings is not None and len(embeddings):
        changes, moved = _on_images(aligned, _sae(a), _sae(b), embeddings)
    return ModelDiff(
        dictionary=dictionary,
        accuracy=_accuracy(a.cbm, b.cbm),
        classes_gained=tuple(name for name in b.cbm.classes if name not in shared),
        classes_lost=tuple(name for name in a.cbm.classes if name not in shared),
        classes=aligned.classes(changes),
        weights=aligned.weights(),
        images=0 if embeddings is None else len(embeddings),
        decisions_changed=moved,
    )


def _sae(parts: ModelParts) -> SaeModel:
    if parts.sae is None:
        raise InvalidInput(
            "Contributions on images need the autoencoder of both models. Give ModelParts.sae."
        )
    return parts.sae


def _accuracy(a: Cbm, b: Cbm) -> tuple[AccuracyChange, ...]:
    before, after = _scores(a), _scores(b)
    return tuple(
        AccuracyChange(split=split, head=head, before=value, after=after[split, head])
        for (split, head), value in before.items()
        if (split, head) in after
    )


def _scores(cbm: Cbm) -> dict[tuple[str, str], float]:
    table = cbm.metrics.get("accuracy")
    return {
        (split, head): float(value)
        for split, heads in (table if isinstance(table, dict) else {}).items()
        for head, value in (heads if isinstance(heads, dict) else {}).items()
        if isinstance(value, int | float)
    }


class _Aligned:
    """Weights of the classes of both, columns in the order: matched, lost or gained."""

    def __init__(
        self, a: Probe, b: Probe, dictionary: DictionaryDiff, shared: Sequence[str]
    ) -> None:
        self.shared = list(shared)
        self.matched = dictionary.matched
        self.order_a = [item.concept_a for item in self.matched] + [
            item.concept for item in dictionary.lost
        ]
        self.order_b = [item.concept_b for item in self.matched] + [
            item.concept for item in dictionary.gained
        ]
        self.before = _rows(a, self.shared)[:, self.order_a]
        self.after = _rows(b, self.shared)[:, self.order_b]
        self.heads = a, b

    def classes(self, contributions: np.ndarray | None) -> tuple[ClassChange, ...]:
        """Per shared class, with the mean change of contributions (k,) where there is one."""
        both = len(self.matched)
        moved = np.abs(self.after[:, :both] - self.before[:, :both]).sum(axis=1)
        lost = np.abs(self.before[:, both:]).sum(axis=1)
        gained = np.abs(self.after[:, both:]).sum(axis=1)
        return tuple(
            ClassChange(
                class_name=name,
                weight_change=float(moved[k]),
                weight_lost=float(lost[k]),
                weight_gained=float(gained[k]),
                contribution_change=None if contributions is None else float(contributions[k]),
            )
            for k, name in enumerate(self.shared)
        )

    def weights(self) -> tuple[WeightChange, ...]:
        """Those that changed, the largest change first."""
        both = len(self.matched)
        change = np.abs(self.after[:, :both] - self.before[:, :both])
        classes, places = np.nonzero(change)
        order = np.argsort(-change[classes, places], kind="stable")
        return tuple(
            WeightChange(
                class_name=self.shared[k],
                concept=self.matched[m],
                before=float(self.before[k, m]),
                after=float(self.after[k, m]),
            )
            for k, m in zip(classes[order].tolist(), places[order].tolist(), strict=True)
        )


def _rows(probe: Probe, classes: Sequence[str]) -> np.ndarray:
    """Weights (k, c) of these classes, in double precision."""
    places = [probe.classes.index(name) for name in classes]
    return np.asarray(probe.weights.detach().cpu().double().numpy()[places])


@inference_mode()
def _on_images(
    aligned: _Aligned, sae_a: SaeModel, sae_b: SaeModel, embeddings: Float[Tensor, "n d"]
) -> tuple[np.ndarray, int]:
    """Mean absolute change of contributions by shared class (k,), and how many decisions moved."""
    both, (head_a, head_b) = len(aligned.matched), aligned.heads
    total, moved = np.zeros(len(aligned.shared)), 0
    for start in range(0, len(embeddings), _BLOCK):
        part = embeddings[start : start + _BLOCK]
        codes_a, codes_b = sae_a.encode(part), sae_b.encode(part)
        best_a = np.array(head_a.classes)[head_a.logits(codes_a).argmax(dim=1).numpy()]
        best_b = np.array(head_b.classes)[head_b.logits(codes_b).argmax(dim=1).numpy()]
        moved += int((best_a != best_b).sum())
        before = codes_a.double().numpy()[:, aligned.order_a]
        after = codes_b.double().numpy()[:, aligned.order_b]
        for k in range(len(aligned.shared)):
            one, other = before * aligned.before[k], after * aligned.after[k]
            total[k] += np.abs(one[:, :both] - other[:, :both]).sum()
            total[k] += np.abs(one[:, both:]).sum() + np.abs(other[:, both:]).sum()
    return total / len(embeddings), moved
