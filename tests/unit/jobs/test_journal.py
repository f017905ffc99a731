"""Progress and logs in the database."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dncbm.database import Base, Database, now
from dncbm.jobs import journal as room
from dncbm.jobs.journal import Journal
from dncbm.jobs.records import Progress
from dncbm.jobs.tables import LogRow, StageRow

TABLES = {StageRow.__tablename__, LogRow.__tablename__}


def test_the_migrated_schema_is_the_declared_one(tmp_path: Path) -> None:
    database = Database.of_file(tmp_path / "a.sqlite")
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_object": lambda item, name, kind, *_: kind != "table" or name in TABLES},
        )
        assert compare_metadata(context, Base.metadata) == []
    database.close()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Database.of_file(tmp_path / "a.sqlite"))


def test_a_stage_that_begins_anew_forgets_what_followed(journal: Journal) -> None:
    for position in (0, 1, 2):
        journal.begin("a", Progress(position, now(), now(), 3, 3, 1.5))
    journal.begin("b", Progress(2, now()))
    again = Progress(1, datetime(2026, 1, 2, tzinfo=UTC))
    journal.begin("a", again)
    journal.record("a", Progress(1, again.started, None, 5, 10, 2.0))
    found = journal.progress(["a", "b", "c"])
    assert [item.position for item in found["a"]] == [0, 1]
    assert found["a"][1] == Progress(1, again.started, None, 5, 10, 2.0)
    assert len(found["b"]) == 1
    assert "c" not in found


def test_logs_are_bounded_per_job(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_LINES", 5)
    journal.log("other", [(now(), "INFO", "kept")])
    for start in range(0, 12, 3):
        journal.log("a", [(now(), "INFO", f"line {start + i}") for i in range(3)])
    lines = journal.lines("a", limit=100)
    assert [line.message for line in lines] == [f"line {i}" for i in range(7, 12)]
    assert journal.count_lines("a") == 5
    after = journal.lines("a", limit=2, after=lines[1].id)
    assert [line.message for line in after] == ["line 9", "line 10"]
    assert journal.count_lines("other") == 1
    journal.log("a", [(now(), "INFO", "x" * 100_000)])
    assert len(journal.lines("a", limit=100)[-1].message) == room.MOST_CHARACTERS
