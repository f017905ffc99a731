"""Edits in the database: proposed, evaluated, activated, superseded or reverted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast, final

from sqlalchemy import func, select, text, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from dncbm.curation.operations import Operation, operation_json, parse_operations
from dncbm.curation.tables import EditRow, HeadRow
from dncbm.database import Database, now
from dncbm.database.audit import AuditLog, append_audit
from dncbm.errors import Conflict, InvalidInput, UnknownName

EditStatus = Literal["draft", "evaluated", "active", "superseded", "reverted"]
LONGEST_AUTHOR = 200
LONGEST_REASON = 2000


@final
@dataclass(frozen=True, slots=True)
class ModelKey:
    """A model under its id, and what it was when an edit was made: the bottleneck's fingerprint.

    A model that is trained again begins without edits: its concepts are others.
    """

    id: str
    fingerprint: str


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """A proposed or accepted change of a model, on top of its parent."""

    id: int
    model: str
    fingerprint: str
    parent: int | None
    """The edit that was active when this one was made; None: the unedited model."""
    operations: tuple[Operation, ...]
    author: str
    reason: str
    created: datetime
    status: EditStatus
    evaluation: dict[str, Any] | None


@final
class CurationStore:
    """Edits of all models of a service; every change is in the audit log of the same database.

    A model has at most one active edit, which holds on top of its parent, that on top of its own,
    and so on. An edit can only be activated while its parent is active: of two people who edit the
    same state, the first wins and the second is told so.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.audit = AuditLog(database)

    def create(
        self, model: ModelKey, operations: Sequence[Operation], *, author: str, reason: str
    ) -> Edit:
        """A draft on top of the edit that is active now.

        Raises:
            InvalidInput: no author, or texts that are too long.
        """
        _check_text("author", author, LONGEST_AUTHOR, least=1)
        _check_text("reason", reason, LONGEST_REASON, least=0)
        with self._database.session() as session:
            head = _head(session, model)
            row = EditRow(
                model=model.id,
                fingerprint=model.fingerprint,
                parent=head.active if head else None,
                operations=[operation_json(one) for one in operations],
                author=author,
                reason=reason,
                created=now(),
                status="draft",
            )
            session.add(row)
            session.flush()
            detail = {"parent": row.parent, "operations": row.operations, "reason": reason}
            _log(session, "create", author, row, **detail)
            return _edit(row)

    def get(self, model: ModelKey, edit_id: int) -> Edit:
        """The edit of that number.

        Raises:
            UnknownName: the model has no such edit.
        """
        with self._database.session() as session:
            return _edit(_row(session, model, edit_id))

    def page(self, model: ModelKey, *, limit: int, offset: int) -> tuple[int, list[Edit]]:
        """How many edits the model has, and some of them, newest first."""
        mine = (EditRow.model == model.id, EditRow.fingerprint == model.fingerprint)
        with self._database.session() as session:
            total = session.scalar(select(func.count()).select_from(EditRow).where(*mine)) or 0
            newest = select(EditRow).where(*mine).order_by(EditRow.id.desc())
            rows = session.scalars(newest.limit(limit).offset(offset))
            return total, [_edit(row) for row in rows]

    def active(self, model: ModelKey) -> Edit | None:
        """The edit that is served; None: the unedited model."""
        with self._database.session() as session:
            head = _head(session, model)
            if head is None or head.active is None:
                return None
            return _edit(_row(session, model, head.active))

    def chain(self, model: ModelKey, edit_id: int | None) -> list[Edit]:
        """The edit with its parent, its parent's parent and so on, oldest first."""
        found: list[Edit] = []
        with self._database.session() as session:
            while edit_id is not None:
                found.append(_edit(_row(session, model, edit_id)))
                edit_id = found[-1].parent
        return found[::-1]

    def versions(self) -> dict[ModelKey, int]:
        """A number per model that grows whenever another edit is active."""
        with self._database.session() as session:
            rows = session.execute(select(HeadRow.model, HeadRow.fingerprint, HeadRow.version))
            return {ModelKey(row[0], row[1]): row[2] for row in rows}

    def record_evaluation(
        self, model: ModelKey, edit_id: int, evaluation: dict[str, Any], *, author: str
    ) -> Edit:
        """A draft becomes evaluated; an evaluated edit gets the new figures.

        Raises:
            UnknownName: the model has no such edit.
            Conflict: it is or was active.
        """
        with self._database.session() as session:
            row = _row(session, model, edit_id, locked=True)
            _require(row, ("draft", "evaluated"), "evaluated")
            row.evaluation, row.status = evaluation, "evaluated"
            figures = {
                key: evaluation.get(key) for key in ("images", "accuracy_before", "accuracy_after")
            }
            _log(session, "evaluate", author, row, **figures)
            return _edit(row)

    def activate(self, model: ModelKey, edit_id: int, *, author: str) -> Edit:
        """The evaluated edit takes the place of its parent.

        Raises:
            UnknownName: the model has no such edit.
            Conflict: it is not evaluated, or its parent is not active (any more).
        """
        with self._database.session() as session:
            row = _row(session, model, edit_id)
            _require(row, ("evaluated",), "activated")
            _swap(session, model, row, expected=row.parent, now_active=row.id)
            if row.parent is not None:
                _set_status(session, row.parent, "superseded")
            _set_status(session, row.id, "active")
            _log(session, "activate", author, row, parent=row.parent)
            session.refresh(row)
            return _edit(row)

    def revert(self, model: ModelKey, edit_id: int, *, author: str) -> Edit:
        """The active edit's parent, or the unedited model, is active again.

        Raises:
            UnknownName: the model has no such edit.
            Conflict: it is not active.
        """
        with self._database.session() as session:
            row = _row(session, model, edit_id)
            _require(row, ("active",), "reverted")
            _swap(session, model, row, expected=row.id, now_active=row.parent)
            _set_status(session, row.id, "reverted")
            if row.parent is not None:
                _set_status(session, row.parent, "active")
            _log(session, "revert", author, row, active=row.parent)
            session.refresh(row)
            return _edit(row)


def _check_text(what: str, value: str, most: int, *, least: int) -> None:
    if not least <= len(value.strip()) or len(value) > most or "\0" in value:
        raise InvalidInput(
            f"{what} must have {least} to {most} characters, got {len(value)} ({value[:40]!r})."
        )


def _head(session: Session, model: ModelKey) -> HeadRow | None:
    return session.get(HeadRow, (model.id, model.fingerprint))


def _row(session: Session, model: ModelKey, edit_id: int, *, locked: bool = False) -> EditRow:
    row = session.get(EditRow, edit_id, with_for_update=locked) if edit_id < 2**31 else None
    if row is None or (row.model, row.fingerprint) != (model.id, model.fingerprint):
        mine = (EditRow.model == model.id, EditRow.fingerprint == model.fingerprint)
        newest = select(EditRow.id).where(*mine).order_by(EditRow.id.desc()).limit(10)
        known = [str(one) for one in session.scalars(newest)]
        raise UnknownName(f"edit of model {model.id!r}", str(edit_id), known)
    return row


_AFTER_DRAFT = {
    "draft": "Evaluate it first.",
    "active": "It is active.",
    "superseded": "Another edit took its place.",
    "reverted": "Make a new edit with the same operations.",
    "evaluated": "It is not active.",
}


def _require(row: EditRow, wanted: Sequence[str], verb: str) -> None:
    if row.status not in wanted:
        raise Conflict(
            f"Edit {row.id} cannot be {verb}: its status is {row.status}, not "
            f"{' or '.join(wanted)}. {_AFTER_DRAFT[row.status]}"
        )


def _swap(
    session: Session, model: ModelKey, row: EditRow, *, expected: int | None, now_active: int | None
) -> None:
    """Compare and swap: whoever comes second finds another edit active, and is refused.

    From here to the end of the transaction nobody else changes what is active.
    """
    mine = {"model": model.id, "fingerprint": model.fingerprint}
    session.execute(
        text(
            "INSERT INTO edit_heads (model, fingerprint, active, version) "
            "VALUES (:model, :fingerprint, NULL, 0) ON CONFLICT DO NOTHING"
        ),
        mine,
    )
    swapped = session.execute(
        update(HeadRow)
        .where(HeadRow.model == model.id, HeadRow.fingerprint == model.fingerprint)
        .where(HeadRow.active.is_not_distinct_from(expected))
        .values(active=now_active, version=HeadRow.version + 1)
        .execution_options(synchronize_session=False)
    )
    if cast(CursorResult[Any], swapped).rowcount != 1:
        raise Conflict(
            f"Edit {row.id} needs {_named(expected)} to be active, which it is not any more: "
            "somebody else changed the model meanwhile. Look at the active edit; an edit of "
            "yours has to be made anew on top of it."
        )


def _named(edit: int | None) -> str:
    return "the unedited model" if edit is None else f"edit {edit}"


def _set_status(session: Session, edit_id: int, status: EditStatus) -> None:
    """At once and in this order: a model never has two active edits, not even in between."""
    session.execute(
        update(EditRow)
        .where(EditRow.id == edit_id)
        .values(status=status)
        .execution_options(synchronize_session=False)
    )


def _log(session: Session, action: str, author: str, row: EditRow, **detail: Any) -> None:
    append_audit(
        session,
        author=author,
        action=f"edit.{action}",
        subject=row.model,
        detail={"edit": row.id, **detail},
    )


def _edit(row: EditRow) -> Edit:
    return Edit(
        id=row.id,
        model=row.model,
        fingerprint=row.fingerprint,
        parent=row.parent,
        operations=parse_operations(row.operations),
        author=row.author,
        reason=row.reason,
        created=row.created,
        status=cast(EditStatus, row.status),
        evaluation=row.evaluation,
    )
