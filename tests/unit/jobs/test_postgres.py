"""The same on a server: migrations, locks, and a killed worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dncbm.errors import Unavailable
from dncbm.jobs.client import JobClient
from dncbm.jobs.liveness import ServerLocks
from dncbm.jobs.places import Places
from tests.postgres import postgres_server, postgres_url  # noqa: F401
from tests.unit.jobs.conftest import STAGES, Installation, wait_for


@pytest.fixture
def there(tmp_path: Path, postgres_url: str) -> Iterator[Installation]:  # noqa: F811
    installation = Installation(tmp_path / "models", postgres_url)
    yield installation
    installation.close()


def test_a_killed_workers_job_goes_on_in_the_one_that_lives(there: Installation) -> None:
    there.hold("two")
    jobs = [there.submit("a"), there.submit("b")]
    first, second = there.worker(total=2), there.worker(total=2)
    there.await_effect("a two begin")
    there.await_effect("b two begin")
    first.kill()
    first.wait()
    there.free("two")
    for job in jobs:
        there.await_status(job, "succeeded")
    assert second.poll() is None
    for name in ("a", "b"):
        for stage in STAGES:
            assert there.effects.count(f"{name} {stage} end") == 1


def test_cancel_retry_and_logs(there: Installation) -> None:
    there.hold("one")
    job = there.submit()
    there.worker()
    there.await_effect("model one begin")
    there.client.cancel(job)
    there.fail("two", "disk full")
    there.client.retry(job)
    there.await_effect("model one begin", times=2)
    there.free("one")
    failed = there.await_status(job, "failed")
    assert "No space left" in failed.error
    assert "No space left" in there.client.logs(job)[0][-1].message
    there.mend("two")
    there.client.retry(job)
    there.await_status(job, "succeeded")
    assert there.effects.count("model one end") == 1


def test_locks_end_with_their_holder(postgres_url: str) -> None:  # noqa: F811
    ours, theirs = ServerLocks(postgres_url), ServerLocks(postgres_url)
    assert ours.hold("a")
    assert not theirs.hold("a")
    with theirs.claimed("a") as dead:
        assert not dead
    ours.close()
    wait_for(lambda: _is_dead(theirs, "a"), "the end of the session")
    assert theirs.hold("a")
    theirs.close()


def _is_dead(locks: ServerLocks, name: str) -> bool:
    with locks.claimed(name) as dead:
        return dead


def test_a_lost_session_is_noticed(postgres_url: str) -> None:  # noqa: F811
    import psycopg

    locks = ServerLocks(postgres_url)
    locks.hold("a")
    assert locks.intact()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
    assert not locks.intact()
    locks.close()


def test_a_server_that_is_away(tmp_path: Path) -> None:
    places = Places.of(tmp_path, database="postgresql://u:secret@127.0.0.1:1/d")
    with pytest.raises(Unavailable) as raised:
        JobClient(places)
    assert "secret" not in str(raised.value)
