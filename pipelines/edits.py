"""What the commands of `pipelines.edits_cli` do, as functions to plain values."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from dncbm.attribution.targets import indices
from dncbm.curation.apply import Edited
from dncbm.curation.operations import operation_json, parse_operations
from dncbm.curation.store import Edit
from dncbm.curation.workbench import Workbench
from dncbm.database.audit import AuditLog
from dncbm.errors import ArtifactError
from dncbm.naming.dictionary import load_dictionary
from dncbm.naming.mates import base_names
from dncbm.probe.store import load_cbm
from pipelines.console import stdout
from pipelines.edited import bench_of
from pipelines.state import open_database

Result = dict[str, Any]

_ALL = 1_000_000


def propose(model: Path, operations: list[Result], *, author: str, reason: str) -> Result:
    """A new edit, evaluated."""
    bench = _bench(model)
    parsed = parse_operations(_opened(operations, bench))
    edit = bench.propose(parsed, author=author, reason=reason)
    return _edit(bench.evaluate(edit.id, author=author))


def _opened(operations: list[Result], bench: Workbench) -> list[Result]:
    """The same with one operation for each concept that a name stands for."""
    if not any(isinstance(item.get("concept"), str) for item in operations):
        return operations
    named = bench.active()[1].dictionary.names
    names, bases = [item.name for item in named], base_names(named)
    return [
        item | {"concept": concept} if "concept" in item else item
        for item in operations
        for concept in (
            indices("concept", [item["concept"]], names, bases) if "concept" in item else [0]
        )
    ]


def step(model: Path, verb: str, edit_id: int, *, author: str) -> Result:
    """An edit after it was activated or reverted, and all others."""
    bench = _bench(model)
    getattr(bench.store, verb)(bench.model, edit_id, author=author)
    return listed(model)


def listed(model: Path) -> Result:
    """All edits of a model, newest first."""
    bench = _bench(model)
    _, found = bench.store.page(bench.model, limit=_ALL, offset=0)
    return {"edits": [_edit(edit) for edit in found]}


def audited(model: Path, limit: int) -> Result:
    """The newest entries of the audit log."""
    total, entries = AuditLog(open_database(model)).page(limit=limit, offset=0)
    return {"total": total, "entries": [asdict(entry) for entry in entries]}


def verified(model: Path) -> Result:
    """The state of the audit log.

    Raises:
        ArtifactError: somebody has tampered with it.
    """
    found = AuditLog(open_database(model)).verify()
    if not found.intact:
        raise ArtifactError(
            f"The audit log was changed after it was written: entry {found.broken_at} is wrong or "
            f"missing (of {found.entries}). Compare it with a backup of the database."
        )
    return asdict(found)


def _bench(model: Path) -> Workbench:
    base = Edited(load_cbm(model / "cbm"), load_dictionary(model / "dictionary"))
    return bench_of(model, base, open_database(model))


def _edit(edit: Edit) -> Result:
    return {
        "id": edit.id,
        "model": edit.model,
        "parent": edit.parent,
        "operations": [operation_json(one) for one in edit.operations],
        "author": edit.author,
        "reason": edit.reason,
        "created": edit.created.isoformat(),
        "status": edit.status,
        "evaluation": edit.evaluation,
    }


def show_edit(edit: Result) -> None:
    """Print one edit with what it costs."""
    found = edit["evaluation"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("edit", f"{edit['id']} ({edit['status']})")
    for operation in edit["operations"]:
        table.add_row("", _said(operation))
    if found["images"]:
        table.add_row("validation images", str(found["images"]))
        for row in found["heads"]:
            table.add_row(f"accuracy, {row['head']}", _change(row))
        for row in found["per_class"]:
            if row["accuracy_before"] != row["accuracy_after"]:
                table.add_row(f"class {row['class']}", f"{_change(row)} of {row['images']}")
    for row in found["removals"]:
        table.add_row(f"cost of removing {row['concept']}", f"{row['cost']:.1%} ({row['name']})")
    table.add_row("next", f"dncbm edits MODEL --activate {edit['id']}")
    stdout.print(table)


def show_edits(result: Result) -> None:
    """Print edits, newest first."""
    table = Table("edit", "on", "status", "author", "accuracy", "operations", box=None)
    for edit in result["edits"]:
        found = edit["evaluation"] or {}
        table.add_row(
            str(edit["id"]),
            "-" if edit["parent"] is None else str(edit["parent"]),
            edit["status"],
            edit["author"],
            _change(found) if found.get("images") else "-",
            "; ".join(_said(operation) for operation in edit["operations"]),
        )
    stdout.print(table)


def show_audit(result: Result) -> None:
    """Print entries of the audit log, or its state."""
    if "entries" not in result or isinstance(result["entries"], int):
        stdout.print(f"Intact: {result['entries']} entries; the last hash is {result['hash']}")
        return
    table = Table("n", "time", "author", "action", "subject", "detail", box=None)
    for entry in result["entries"]:
        detail = ", ".join(f"{key} {value}" for key, value in entry["detail"].items())
        table.add_row(
            str(entry["n"]), entry["time"], entry["author"], entry["action"], entry["subject"],
            detail,
        )  # fmt: skip
    stdout.print(table)


def _change(row: Result) -> str:
    return f"{row['accuracy_before']:.1%} → {row['accuracy_after']:.1%}"


def _said(operation: Result) -> str:
    rest = ", ".join(f"{key} {value}" for key, value in operation.items() if key != "op")
    return f"{operation['op']} {rest}".strip()
