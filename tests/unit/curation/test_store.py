"""Edits and audit log in the database: states, races, tampering; on SQLite and on Postgres."""

import threading
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from dncbm.curation.operations import parse_operations
from dncbm.curation.store import CurationStore, ModelKey
from dncbm.database import Base
from dncbm.database.audit import AuditLog, append_audit
from dncbm.errors import Conflict, DncbmError, InvalidInput, UnknownName

MODEL = ModelKey("insects", "f" * 64)
OPERATIONS = parse_operations([{"op": "rename", "concept": 1, "name": "wing"}])
EVALUATION = {"images": 3, "accuracy_before": 1.0, "accuracy_after": 0.5, "temperatures": {}}
TABLES = {"edits", "edit_heads", "audit_log", "audit_end"}


@pytest.fixture
def store(database) -> CurationStore:
    return CurationStore(database)


def ready(store: CurationStore, model: ModelKey = MODEL) -> int:
    made = store.create(model, OPERATIONS, author="ada", reason="why not")
    store.record_evaluation(model, made.id, EVALUATION, author="ada")
    return made.id


def test_the_schema_is_that_of_the_tables(database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        changes = compare_metadata(context, Base.metadata)
    mine = [
        change
        for change in changes
        if isinstance(change, tuple) and getattr(change[1], "name", None) in TABLES
    ]
    assert mine == []
    assert set(Base.metadata.tables) >= TABLES


def test_an_edit_goes_through_its_states(store) -> None:
    made = store.create(MODEL, OPERATIONS, author="ada", reason="r")
    assert (made.status, made.parent, made.evaluation) == ("draft", None, None)
    with pytest.raises(Conflict, match="is draft, not evaluated. Evaluate it first"):
        store.activate(MODEL, made.id, author="ada")
    assert store.record_evaluation(MODEL, made.id, EVALUATION, author="a").status == "evaluated"
    assert store.active(MODEL) is None
    assert store.activate(MODEL, made.id, author="bob").status == "active"
    second = ready(store)
    assert store.get(MODEL, second).parent == made.id
    store.activate(MODEL, second, author="bob")
    assert store.get(MODEL, made.id).status == "superseded"
    assert [edit.id for edit in store.chain(MODEL, second)] == [made.id, second]
    with pytest.raises(Conflict, match="cannot be reverted"):
        store.revert(MODEL, made.id, author="bob")
    assert store.revert(MODEL, second, author="eve").status == "reverted"
    active = store.active(MODEL)
    assert active is not None
    assert (active.id, active.operations, active.evaluation) == (made.id, OPERATIONS, EVALUATION)
    store.revert(MODEL, made.id, author="eve")
    assert store.active(MODEL) is None
    with pytest.raises(Conflict, match="Make a new edit"):
        store.record_evaluation(MODEL, second, EVALUATION, author="eve")
    assert store.versions() == {MODEL: 4}
    authors = [(entry.action, entry.author) for entry in store.audit.page(limit=99, offset=0)[1]]
    assert authors[:2] == [("edit.revert", "eve"), ("edit.revert", "eve")]


def test_an_edit_of_another_state_of_the_model_is_refused(store) -> None:
    first, second = ready(store), ready(store)
    store.activate(MODEL, first, author="a")
    with pytest.raises(Conflict, match="needs the unedited model to be active"):
        store.activate(MODEL, second, author="b")
    assert store.get(MODEL, second).status == "evaluated"
    assert store.audit.page(limit=1, offset=0)[1][0].action == "edit.activate"


def test_models_have_their_own_edits(store) -> None:
    others = [replace(MODEL, id="birds"), replace(MODEL, fingerprint="0" * 64)]
    made = ready(store)
    store.activate(MODEL, made, author="a")
    for other in others:
        with pytest.raises(UnknownName, match="Unknown edit of model"):
            store.get(other, made)
        assert store.active(other) is None
        assert store.page(other, limit=9, offset=0) == (0, [])
        store.activate(other, ready(store, other), author="a")


@pytest.mark.parametrize(
    ("author", "reason"), [("", "r"), (" ", "r"), ("a" * 201, "r"), ("a", "r" * 2001)]
)
def test_authors_and_reasons_have_a_length(store, author, reason) -> None:
    with pytest.raises(InvalidInput, match="characters, got"):
        store.create(MODEL, OPERATIONS, author=author, reason=reason)
    assert store.audit.verify().entries == 0


def test_of_many_who_activate_at_once_one_wins(store) -> None:
    edits = [ready(store) for _ in range(6)]
    start, outcomes = threading.Barrier(len(edits)), []

    def activate(edit: int) -> None:
        start.wait()
        try:
            store.activate(MODEL, edit, author=f"person {edit}")
            outcomes.append("won")
        except Conflict:
            outcomes.append("refused")

    threads = [threading.Thread(target=activate, args=(edit,)) for edit in edits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 5 + ["won"]
    _, all_edits = store.page(MODEL, limit=99, offset=0)
    assert [edit.status for edit in all_edits].count("active") == 1
    assert store.audit.verify().intact
    assert store.versions() == {MODEL: 1}


def test_many_writers_make_one_chain(store, database) -> None:
    def write(n: int) -> None:
        for _ in range(5):
            with database.session() as session:
                append_audit(session, author=str(n), action="a", subject="s", detail={"n": n})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.audit.verify() == replace(
        store.audit.verify(), intact=True, entries=20, broken_at=None
    )


def test_verifying_takes_its_turn_among_writers(store, database) -> None:
    """Every look finds a whole list of a moment, however many write meanwhile."""
    per_writer, writers = 12, 3
    start, found, failures = threading.Barrier(writers + 2), [], []

    def write(n: int) -> None:
        start.wait()
        for turn in range(per_writer):
            with database.session() as session:
                append_audit(session, author=str(n), action="a", subject=str(turn), detail={})

    def look() -> None:
        start.wait()
        while any(thread.is_alive() for thread in threads[:writers]):
            found.append(store.audit.verify())

    def guarded(work, *given) -> None:
        try:
            work(*given)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(write, n)) for n in range(writers)]
    threads += [threading.Thread(target=guarded, args=(look,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert found
    assert all(check.intact for check in found)
    assert store.audit.verify().entries == per_writer * writers
    _, entries = store.audit.page(limit=99, offset=0)
    for n in range(writers):  # each writer's entries in its own order
        mine = [entry.subject for entry in entries if entry.author == str(n)]
        assert mine == [str(turn) for turn in reversed(range(per_writer))]


def test_a_change_that_fails_leaves_no_entry(store, database) -> None:
    with pytest.raises(ZeroDivisionError), database.session() as session:
        append_audit(session, author="a", action="a", subject="s", detail={})
        1 / 0  # noqa: B018
    assert store.audit.verify().entries == 0


CHANGES = ["UPDATE audit_log SET author = 'x' WHERE n = 2", "DELETE FROM audit_log WHERE n = 2"]


@pytest.mark.parametrize("statement", [*CHANGES, "DELETE FROM audit_log"])
def test_the_database_refuses_changes_of_the_log(store, database, statement) -> None:
    ready(store)
    with pytest.raises(DBAPIError, match="can only grow"), database.session() as session:
        session.execute(text(statement))
    assert store.audit.verify().intact


def drop_guards(session, database) -> None:
    if database.is_sqlite:
        for verb in ("update", "delete"):
            session.execute(text(f"DROP TRIGGER audit_no_{verb}"))
    else:
        session.execute(text("DROP TRIGGER audit_no_change ON audit_log"))


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE audit_log SET author = 'x' WHERE n = 2", 2),
        ("UPDATE audit_log SET detail = '{}' WHERE n = 1", 1),
        ("UPDATE audit_log SET time = '2000-01-01T00:00:00+00:00' WHERE n = 3", 3),
        ("UPDATE audit_log SET hash = previous WHERE n = 2", 2),
        ("DELETE FROM audit_log WHERE n = 2", 2),
        ("DELETE FROM audit_log WHERE n = 4", 4),
        ("DELETE FROM audit_log", 1),
        ("UPDATE audit_log SET n = 9 WHERE n = 1", 1),
        ("UPDATE audit_end SET entries = 3", 4),
        ("UPDATE audit_end SET hash = 'x'", 4),
        (
            "INSERT INTO audit_log SELECT 5, time, author, action, subject, detail, hash, hash "
            "FROM audit_log WHERE n = 4",
            5,
        ),
    ],
)
def test_tampering_is_found(store, database, statement, broken_at) -> None:
    for _ in range(2):
        ready(store)
    assert store.audit.verify().intact
    with database.session() as session:
        drop_guards(session, database)
        session.execute(text(statement))
    found = store.audit.verify()
    assert (found.intact, found.broken_at) == (False, broken_at)
    store.audit.page(limit=9, offset=0)  # what is left can still be read


class Edits(RuleBasedStateMachine):
    """The store against a plain model: a dictionary of states, parents and what is active."""

    store: CurationStore

    def __init__(self) -> None:
        super().__init__()
        self.model = ModelKey("m", str(id(self))[-20:] + str(Edits.count))
        Edits.count += 1
        self.status: dict[int, str] = {}
        self.parent: dict[int, int | None] = {}
        self.active: int | None = None
        self.entries = self.store.audit.verify().entries

    count = 0

    def ask(self, expected: bool, action, edit: int, *more) -> None:
        if expected:
            action(self.model, edit, *more, author="a")
            self.entries += 1
        else:
            with pytest.raises(DncbmError):
                action(self.model, edit, *more, author="a")

    def pick(self, data) -> int:
        return data.draw(st.sampled_from(sorted(self.status) or [10**6]))

    @rule()
    def draft(self) -> None:
        made = self.store.create(self.model, OPERATIONS, author="a", reason="")
        self.status[made.id], self.parent[made.id] = "draft", self.active
        self.entries += 1

    @rule(data=st.data())
    def evaluate(self, data) -> None:
        edit = self.pick(data)
        possible = self.status.get(edit) in ("draft", "evaluated")
        self.ask(possible, self.store.record_evaluation, edit, EVALUATION)
        if possible:
            self.status[edit] = "evaluated"

    @rule(data=st.data())
    def activate(self, data) -> None:
        edit = self.pick(data)
        possible = self.status.get(edit) == "evaluated" and self.parent[edit] == self.active
        self.ask(possible, self.store.activate, edit)
        if possible:
            if self.active is not None:
                self.status[self.active] = "superseded"
            self.status[edit], self.active = "active", edit

    @rule(data=st.data())
    def revert(self, data) -> None:
        edit = self.pick(data)
        possible = edit == self.active
        self.ask(possible, self.store.revert, edit)
        if possible:
            self.status[edit], self.active = "reverted", self.parent[edit]
            if self.active is not None:
                self.status[self.active] = "active"

    @invariant()
    def agrees(self) -> None:
        _, edits = self.store.page(self.model, limit=1000, offset=0)
        assert {edit.id: edit.status for edit in edits} == self.status
        assert {edit.id: edit.parent for edit in edits} == self.parent
        active = self.store.active(self.model)
        assert (active.id if active else None) == self.active
        checked = self.store.audit.verify()
        assert (checked.intact, checked.entries) == (True, self.entries)


def test_the_store_behaves_as_a_plain_model(store) -> None:
    Edits.store = store
    run_state_machine_as_test(
        Edits, settings=settings(max_examples=12, stateful_step_count=20, deadline=None)
    )


def test_the_log_is_read_newest_first_in_pages(store, database) -> None:
    for n in range(5):
        with database.session() as session:
            append_audit(session, author="a", action=f"do.{n}", subject="s", detail={"é": [n]})
    total, entries = AuditLog(database).page(limit=2, offset=1)
    assert (total, [entry.n for entry in entries]) == (5, [4, 3])
    assert entries[0].detail == {"é": [3]}
    with database.session() as session:
        assert session.scalar(select(text("count(*)")).select_from(text("audit_log"))) == 5
