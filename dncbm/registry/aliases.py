"""Aliases of models (`production`), with who set them, when, why, and every earlier one."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from dncbm.database import now
from dncbm.database.audit import append_audit
from dncbm.errors import InvalidInput, UnknownName
from dncbm.registry.names import check_alias, check_text, is_possible
from dncbm.registry.records import AliasChange, AliasRecord
from dncbm.registry.tables import AliasChangeRow, AliasRow, ModelRow


def model_id(session: Session, name: str, what: str = "model") -> str:
    """The id of the model that `name`, an id or an alias, stands for.

    Raises:
        UnknownName: neither; the message lists the nearest of both.
    """
    possible = is_possible(name)
    if possible and session.get(ModelRow, name) is not None:
        return name
    alias = session.get(AliasRow, name) if possible else None
    if alias is None:
        known = [*session.scalars(select(ModelRow.id)), *session.scalars(select(AliasRow.name))]
        raise UnknownName(what, name[:100], known)
    return alias.model


def set_alias(session: Session, name: str, model: str, author: str, reason: str) -> AliasRecord:
    """Let `name` stand for a model (an id, or another alias: what that stands for now).

    Setting what is already so, by the same author for the same reason, changes nothing.

    Raises:
        InvalidInput: the alias is the id of a model or not a good name, the author or the
            reason is blank, or the model's directory is missing or damaged.
        UnknownName: no such model.
    """
    check_alias(name)
    author, reason = check_text("author", author), check_text("reason", reason)
    if session.get(ModelRow, name) is not None:
        raise InvalidInput(
            f"{name!r} is the id of a model and cannot be an alias. Choose another name."
        )
    wanted = model_id(session, model)
    state = session.get_one(ModelRow, wanted).state
    if state != "ready":
        raise InvalidInput(
            f"Model {wanted!r} is {state}: an alias must stand for a model that can be loaded. "
            "Put its directory back, or choose another model."
        )
    row = session.get(AliasRow, name)
    if row is not None and (row.model, row.author, row.reason) == (wanted, author, reason):
        return _record(row)
    values = {"model": wanted, "author": author, "reason": reason, "time": now()}
    row = session.merge(AliasRow(name=name, **values))
    session.add(AliasChangeRow(name=name, **values))
    append_audit(
        session, author=author, action="alias.set", subject=name,
        detail={"model": wanted, "reason": reason},
    )  # fmt: skip
    return _record(row)


def delete_alias(session: Session, name: str, author: str, reason: str) -> AliasChange:
    """Remove an alias; its history stays, with this as its last entry.

    Raises:
        UnknownName: no such alias.
        InvalidInput: the author or the reason is blank.
    """
    row = _row(session, name)
    author, reason = check_text("author", author), check_text("reason", reason)
    session.delete(row)
    change = AliasChangeRow(name=name, model=None, author=author, reason=reason, time=now())
    session.add(change)
    append_audit(
        session, author=author, action="alias.delete", subject=name, detail={"reason": reason}
    )
    return _change(change)


def list_aliases(session: Session) -> list[AliasRecord]:
    """All aliases, by name."""
    return [_record(row) for row in session.scalars(select(AliasRow).order_by(AliasRow.name))]


def get_alias(session: Session, name: str) -> AliasRecord:
    """One alias.

    Raises:
        UnknownName: no such alias.
    """
    return _record(_row(session, name))


def alias_history(session: Session, name: str) -> list[AliasChange]:
    """Every change of an alias, the latest first; also of one that was removed.

    Raises:
        UnknownName: there never was such an alias.
    """
    table = AliasChangeRow
    wanted = select(table).where(table.name == name).order_by(table.number.desc())
    rows = session.scalars(wanted).all() if is_possible(name) else ()
    if not rows:
        raise UnknownName("alias", name[:100], set(session.scalars(select(table.name))))
    return [_change(row) for row in rows]


def _change(row: AliasChangeRow) -> AliasChange:
    return AliasChange(
        name=row.name, model=row.model, author=row.author, reason=row.reason, time=row.time
    )


def _row(session: Session, name: str) -> AliasRow:
    row = session.get(AliasRow, name) if is_possible(name) else None
    if row is None:
        raise UnknownName("alias", name[:100], session.scalars(select(AliasRow.name)))
    return row


def _record(row: AliasRow) -> AliasRecord:
    return AliasRecord(
        name=row.name, model=row.model, author=row.author, reason=row.reason, time=row.time
    )
