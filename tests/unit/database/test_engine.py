import threading

import pytest
from sqlalchemy import text

from dncbm.database import Database
from dncbm.errors import InvalidInput, Unavailable


def test_a_new_file_gets_the_schema_and_opening_again_changes_nothing(tmp_path):
    for _ in range(2):
        database = Database.of_file(tmp_path / "a.sqlite")
        with database.session() as session:
            assert len(session.execute(text("select * from alembic_version")).all()) == 1
        database.close()


def test_a_block_that_raises_leaves_nothing(tmp_path):
    database = Database.of_file(tmp_path / "a.sqlite")
    with database.session() as session:
        session.execute(text("create table t (n integer)"))
    with pytest.raises(KeyError), database.session() as session:
        session.execute(text("insert into t values (1)"))
        raise KeyError
    with database.session() as session:
        assert session.execute(text("select count(*) from t")).scalar() == 0


def test_writers_of_one_file_take_turns(tmp_path):
    """Read, then write what was read plus one: none of the additions may be lost."""
    database = Database.of_file(tmp_path / "a.sqlite")
    with database.session() as session:
        session.execute(text("create table t (n integer)"))
        session.execute(text("insert into t values (0)"))

    def add() -> None:
        for _ in range(10):
            with database.session() as session:
                n = session.execute(text("select n from t")).scalar()
                session.execute(text("update t set n = :n"), {"n": n + 1})

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.session() as session:
        assert session.execute(text("select n from t")).scalar() == 40


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("mysql://u@h/d", InvalidInput, "not supported"),
        ("nonsense", InvalidInput, "sqlite:///FILE"),
        ("sqlite:////nowhere/there/a.sqlite", Unavailable, "can be written"),
        ("postgresql://u:secret@127.0.0.1:1/d", Unavailable, "does not answer"),
    ],
)
def test_addresses_that_lead_nowhere_are_said_so_without_the_password(url, error, message):
    with pytest.raises(error, match=message) as raised:
        Database(url)
    assert "secret" not in str(raised.value)
