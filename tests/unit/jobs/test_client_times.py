"""Times of a job."""

from datetime import UTC, datetime, timedelta

from dncbm.jobs.client import _end


def test_a_job_never_ends_before_it_began() -> None:
    """The engine tells whole seconds on SQLite, the first stage microseconds."""
    began = datetime(2026, 1, 1, 12, 0, 18, 24_419, UTC)
    whole = 1000 * int(began.timestamp())
    assert _end(whole, began) == began
    assert _end(whole + 2000, began) == began.replace(microsecond=0) + timedelta(seconds=2)
    assert _end(whole, None) == began.replace(microsecond=0)
    assert _end(None, began) is None
