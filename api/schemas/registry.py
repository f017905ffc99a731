"""Artifacts, lineage, aliases and differences on the wire."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from api.schemas import Page, _Schema
from dncbm.registry.diff import (
    AccuracyChange,
    ClassChange,
    DictionaryDiff,
    LoneConcept,
    MatchedConcept,
    ModelDiff,
    WeightChange,
)
from dncbm.registry.matching import Method
from dncbm.registry.records import AliasChange, AliasRecord, ArtifactRecord, Lineage

Change = Literal["gained", "lost", "renamed", "kept"]


class InputOut(_Schema):
    """What an artifact was made from."""

    role: str = Field(examples=["sae"])
    fingerprint: str


class ArtifactOut(_Schema):
    """A registered artifact."""

    fingerprint: str
    kind: str
    paths: list[str] = Field(
        description="Directories that hold it, relative to the model root; empty: none any more."
    )
    created: datetime | None
    dncbm_version: str
    seed: int | None
    encoder: str | None
    size_bytes: int
    inputs: list[InputOut]

    @classmethod
    def of(cls, item: ArtifactRecord) -> "ArtifactOut":
        """Wire form of an artifact."""
        inputs = [InputOut(role=role, fingerprint=value) for role, value in item.inputs.items()]
        return cls(**_artifact_fields(item), inputs=inputs)


def _artifact_fields(item: ArtifactRecord) -> dict[str, Any]:
    return {
        "fingerprint": item.fingerprint,
        "kind": item.kind,
        "paths": list(item.paths),
        "created": item.created,
        "dncbm_version": item.dncbm_version,
        "seed": item.seed,
        "encoder": item.encoder,
        "size_bytes": item.size_bytes,
    }


class ArtifactList(Page):
    """Artifacts, the newest first."""

    artifacts: list[ArtifactOut]


class LineageOut(InputOut):
    """An input with its own inputs; data and encoders are no artifacts and end the tree."""

    kind: str | None = Field(description="`null` where it is no registered artifact.")
    created: datetime | None
    paths: list[str]
    inputs: list["LineageOut"]
    more: bool = Field(
        description="Has inputs that are not listed here: they stand elsewhere in the tree, or "
        "more than 100 steps from its top."
    )

    @classmethod
    def of(cls, item: Lineage) -> "LineageOut":
        """Wire form of a lineage."""
        artifact = item.artifact
        return cls(
            role=item.role,
            fingerprint=item.fingerprint,
            kind=artifact.kind if artifact else None,
            created=artifact.created if artifact else None,
            paths=list(artifact.paths) if artifact else [],
            inputs=[cls.of(part) for part in item.inputs],
            more=item.more,
        )


class ArtifactDetail(_Schema):
    """An artifact with its recipe, its measurements and all that it was made from."""

    fingerprint: str
    kind: str
    paths: list[str]
    created: datetime | None
    dncbm_version: str
    seed: int | None
    encoder: str | None
    size_bytes: int
    config: dict[str, Any]
    metrics: dict[str, Any]
    inputs: list[LineageOut]

    @classmethod
    def of(cls, item: ArtifactRecord, lineage: Lineage) -> "ArtifactDetail":
        """Wire form of an artifact and what is below it."""
        return cls(
            **_artifact_fields(item),
            config=dict(item.config),
            metrics=dict(item.metrics),
            inputs=[LineageOut.of(part) for part in lineage.inputs],
        )


class ModelLineage(_Schema):
    """What a model was made from."""

    model: str
    lineage: LineageOut


class AliasBody(_Schema):
    """What an alias shall stand for."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=255, description="Id of a model, or an alias.")
    author: str | None = Field(
        default=None,
        max_length=200,
        examples=["ann@example.org"],
        description="Left out where the key has a name.",
    )
    reason: str = Field(min_length=1, max_length=2000, examples=["2 points better on new photos"])


class AliasOut(_Schema):
    """What an alias stands for, since when, and why."""

    alias: str
    model: str
    author: str
    reason: str
    time: datetime

    @classmethod
    def of(cls, item: AliasRecord) -> "AliasOut":
        """Wire form of an alias."""
        return cls(
            alias=item.name, model=item.model, author=item.author, reason=item.reason,
            time=item.time,
        )  # fmt: skip


class AliasList(Page):
    """Aliases, by name."""

    aliases: list[AliasOut]


class AliasChangeOut(_Schema):
    """One change of an alias; `model` is `null` where it was removed."""

    model: str | None
    author: str
    reason: str
    time: datetime

    @classmethod
    def of(cls, item: AliasChange) -> "AliasChangeOut":
        """Wire form of a change."""
        return cls(model=item.model, author=item.author, reason=item.reason, time=item.time)


class AliasDetail(Page):
    """An alias with all its changes, the latest first."""

    alias: str
    model: str | None = Field(description="`null` where it was removed.")
    history: list[AliasChangeOut]


class ConceptChange(_Schema):
    """A concept of one or of both dictionaries."""

    change: Change
    concept_a: int | None = Field(description="`null`: gained.")
    concept_b: int | None = Field(description="`null`: lost.")
    name_a: str | None
    name_b: str | None
    cosine: float = Field(description="Of the two directions, or with the nearest of the other.")

    @classmethod
    def all_of(cls, item: DictionaryDiff) -> "list[ConceptChange]":
        """Gained, lost, renamed and kept concepts, in this order."""
        return [
            *(cls._alone("gained", concept) for concept in item.gained),
            *(cls._alone("lost", concept) for concept in item.lost),
            *(cls._matched("renamed", concept) for concept in item.renamed),
            *(cls._matched("kept", concept) for concept in item.kept),
        ]

    @classmethod
    def _alone(cls, change: Change, item: LoneConcept) -> "ConceptChange":
        new = change == "gained"
        return cls(
            change=change,
            concept_a=None if new else item.concept,
            concept_b=item.concept if new else None,
            name_a=None if new else item.name,
            name_b=item.name if new else None,
            cosine=item.cosine,
        )

    @classmethod
    def _matched(cls, change: Change, item: MatchedConcept) -> "ConceptChange":
        return cls(
            change=change,
            concept_a=item.concept_a,
            concept_b=item.concept_b,
            name_a=item.name_a,
            name_b=item.name_b,
            cosine=item.cosine,
        )


def counts(item: DictionaryDiff) -> dict[Change, int]:
    """How many concepts changed in which way."""
    return {
        "gained": len(item.gained),
        "lost": len(item.lost),
        "renamed": len(item.renamed),
        "kept": len(item.kept),
    }


class DictionaryDiffOut(Page):
    """Concepts gained, lost, renamed and kept from `a` to `b`, matched by their directions."""

    a: str
    b: str
    method: Method
    min_cosine: float
    counts: dict[Change, int]
    concepts: list[ConceptChange]


class AccuracyChangeOut(_Schema):
    """Accuracy of one head on one split."""

    split: str
    head: str
    before: float
    after: float
    difference: float

    @classmethod
    def of(cls, item: AccuracyChange) -> "AccuracyChangeOut":
        """Wire form."""
        return cls(
            split=item.split, head=item.head, before=item.before, after=item.after,
            difference=item.difference,
        )  # fmt: skip


class ClassChangeOut(_Schema):
    """How much a class of both models changed."""

    class_name: str = Field(serialization_alias="class")
    weight_change: float = Field(description="Sum of absolute changes, over matched concepts.")
    weight_lost: float = Field(description="Sum of absolute weights of the concepts that are lost.")
    weight_gained: float
    contribution_change: float | None = Field(
        description="Mean over images of the sum of absolute changes; `null` without images."
    )

    @classmethod
    def of(cls, item: ClassChange) -> "ClassChangeOut":
        """Wire form."""
        return cls(
            class_name=item.class_name,
            weight_change=item.weight_change,
            weight_lost=item.weight_lost,
            weight_gained=item.weight_gained,
            contribution_change=item.contribution_change,
        )


class WeightChangeOut(_Schema):
    """The weight of a matched concept for a class of both models."""

    class_name: str = Field(serialization_alias="class")
    concept_a: int
    concept_b: int
    name_a: str
    name_b: str
    cosine: float
    before: float
    after: float
    difference: float

    @classmethod
    def of(cls, item: WeightChange) -> "WeightChangeOut":
        """Wire form."""
        concept = item.concept
        return cls(
            class_name=item.class_name,
            concept_a=concept.concept_a,
            concept_b=concept.concept_b,
            name_a=concept.name_a,
            name_b=concept.name_b,
            cosine=concept.cosine,
            before=item.before,
            after=item.after,
            difference=item.difference,
        )


class ModelDiffOut(Page):
    """What changed from model `a` to model `b`; `weights` by falling size of the change."""

    a: str
    b: str
    concepts: dict[Change, int] = Field(description="How many; see the dictionaries' diff.")
    accuracy: list[AccuracyChangeOut]
    classes_gained: list[str]
    classes_lost: list[str]
    classes: list[ClassChangeOut]
    weights: list[WeightChangeOut]
    images: int = Field(description="Images on which contributions and decisions were compared.")
    decisions_changed: int | None

    @classmethod
    def of(cls, a: str, b: str, item: ModelDiff, part: slice, **page: Any) -> "ModelDiffOut":
        """Wire form, with one page of the weights."""
        return cls(
            a=a,
            b=b,
            concepts=counts(item.dictionary),
            accuracy=[AccuracyChangeOut.of(change) for change in item.accuracy],
            classes_gained=list(item.classes_gained),
            classes_lost=list(item.classes_lost),
            classes=[ClassChangeOut.of(change) for change in item.classes],
            weights=[WeightChangeOut.of(change) for change in item.weights[part]],
            images=item.images,
            decisions_changed=item.decisions_changed,
            **page,
        )
