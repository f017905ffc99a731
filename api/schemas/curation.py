"""Wire forms of interventions, edits and the audit log."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from api.schemas import ImagePrediction, Page, PredictBody, _Schema
from dncbm.curation.operations import LONGEST_NAME, MOST_OPERATIONS, operation_json
from dncbm.curation.store import LONGEST_AUTHOR, LONGEST_REASON, Edit, EditStatus
from dncbm.database.audit import AuditEntry
from dncbm.probe.changes import MOST_CHANGES
from dncbm.types import ChangedCode

Index = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Author = Annotated[
    str | None,
    Field(
        max_length=LONGEST_AUTHOR,
        description="Who does it; the name of the API key counts where there is one.",
    ),
]


class Change(_Schema):
    """A concept, by index or name, with one of `set`, `scale` and `remove`."""

    model_config = ConfigDict(extra="forbid")

    concept: int | str = Field(description="A name stands for all concepts that have it.")
    set: float | None = Field(default=None, ge=0, description="The new code.")
    scale: float | None = Field(default=None, ge=0, description="Factor of the code.")
    remove: Literal[True] | None = Field(default=None, description="Set the code to 0.")


class InterveneBody(PredictBody):
    """Images as base64 text, and what to change in their codes."""

    changes: list[Any] = Field(
        min_length=1,
        max_length=MOST_CHANGES,
        examples=[[{"concept": "sneaker", "set": 0.0}]],
        json_schema_extra={"items": Change.model_json_schema()},
    )


class ChangedOut(_Schema):
    """The code of a changed concept."""

    concept: int
    name: str
    code_before: float
    code_after: float

    @classmethod
    def of(cls, item: ChangedCode) -> "ChangedOut":
        """Wire form of a changed code."""
        return cls(
            concept=item.concept,
            name=item.name,
            code_before=item.code_before,
            code_after=item.code_after,
        )


class InterventionOut(_Schema):
    """The decision about one image before and after; both sum up exactly."""

    image: str = Field(description="File name as sent.", examples=["photo.jpg"])
    before: ImagePrediction
    after: ImagePrediction
    changed: list[ChangedOut]


class InterveneAnswer(_Schema):
    """One entry per image, in the order of the upload."""

    model: str
    interventions: list[InterventionOut]


class _Operation(_Schema):
    model_config = ConfigDict(extra="forbid")


class RemoveOperation(_Operation):
    """No class may use the concept."""

    op: Literal["remove"]
    concept: Index


class RenameOperation(_Operation):
    """Another name; no number changes."""

    op: Literal["rename"]
    concept: Index
    name: Name


class MergeOperation(_Operation):
    """One name and one group for several concepts; no number changes."""

    op: Literal["merge"]
    concepts: list[Index] = Field(min_length=2)
    name: Name


class BlockOperation(_Operation):
    """The name is hidden, and the concept left out of lists and search; no number changes."""

    op: Literal["block"]
    concept: Index


class SetWeightOperation(_Operation):
    """Another weight, in the dense head and in those that use the concept for the class."""

    op: Literal["set_weight"]
    class_name: str = Field(alias="class", max_length=500)
    concept: Index
    weight: float = Field(allow_inf_nan=False)


class RefitOperation(_Operation):
    """All heads are fitted again without the removed concepts."""

    op: Literal["refit"]


OperationBody = Annotated[
    RemoveOperation
    | RenameOperation
    | MergeOperation
    | BlockOperation
    | SetWeightOperation
    | RefitOperation,
    Field(discriminator="op"),
]


class EditBody(_Schema):
    """A proposed edit, on top of the active one."""

    model_config = ConfigDict(extra="forbid")

    operations: list[OperationBody] = Field(
        min_length=1,
        max_length=MOST_OPERATIONS,
        examples=[[{"op": "rename", "concept": 17, "name": "trainer"}]],
    )
    author: Author = None
    reason: str = Field(default="", max_length=LONGEST_REASON)


class ActorBody(_Schema):
    """Who takes a step."""

    model_config = ConfigDict(extra="forbid")

    author: Author = None


class ClassAccuracy(_Schema):
    """Share of the images of a class that is classified right."""

    class_name: str = Field(alias="class")
    images: int
    accuracy_before: float
    accuracy_after: float


class HeadAccuracy(_Schema):
    """Accuracy of one head."""

    head: str = Field(examples=["dense", "nec5"])
    accuracy_before: float
    accuracy_after: float


class RemovalCost(_Schema):
    """What one removal costs by itself, before any refit."""

    concept: int
    name: str
    cost: float = Field(description="Accuracy of the dense head that is lost without it.")


class EvaluationOut(_Schema):
    """Accuracy of the dense head before and after the edit, on images it was not fitted on."""

    split: str
    images: int = Field(description="0 where only names change and no images are there.")
    accuracy_before: float | None
    accuracy_after: float | None
    per_class: list[ClassAccuracy]
    heads: list[HeadAccuracy]
    removals: list[RemovalCost]
    temperatures: dict[str, float] = Field(description="By head, fitted on these images.")


class EditOut(_Schema):
    """An edit of a model."""

    id: int
    model: str
    parent: int | None = Field(description="The edit it builds on; null: the model as made.")
    operations: list[dict[str, Any]]
    author: str
    reason: str
    created: datetime
    status: EditStatus
    evaluation: EvaluationOut | None

    @classmethod
    def of(cls, edit: Edit) -> "EditOut":
        """Wire form of an edit."""
        return cls(
            id=edit.id,
            model=edit.model,
            parent=edit.parent,
            operations=[operation_json(one) for one in edit.operations],
            author=edit.author,
            reason=edit.reason,
            created=edit.created,
            status=edit.status,
            evaluation=EvaluationOut(**edit.evaluation) if edit.evaluation else None,
        )


class EditList(Page):
    """Edits of a model, newest first."""

    edits: list[EditOut]


class AuditEntryOut(_Schema):
    """One change; `hash` seals it and all before it."""

    n: int
    time: str
    author: str
    action: str = Field(examples=["edit.activate"])
    subject: str = Field(description="What was changed, for example the id of a model.")
    detail: dict[str, Any]
    hash: str

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditEntryOut":
        """Wire form of an entry."""
        return cls(
            n=entry.n,
            time=entry.time,
            author=entry.author,
            action=entry.action,
            subject=entry.subject,
            detail=entry.detail,
            hash=entry.hash,
        )


class AuditList(Page):
    """Entries of the audit log, newest first."""

    entries: list[AuditEntryOut]


class AuditState(_Schema):
    """Whether the audit log is as it was written."""

    intact: bool
    entries: int
    broken_at: int | None = Field(description="The first entry that is wrong or missing.")
    hash: str = Field(description="Of the last entry that is right; keep it to compare later.")
