"""Wall clocks that jump by hours, and that differ: no job changes its worker because of them."""

from pathlib import Path

import pytest

from tests.unit.jobs.conftest import STAGES, Installation, wait_for

HOURS = 6 * 3600


@pytest.mark.parametrize("jump", [HOURS, -HOURS])
def test_a_jump_gives_no_job_away(here: Installation, tmp_path: Path, jump: int) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    here.hold("two")
    job = here.submit()
    first = here.worker(clock=ours)
    here.await_effect("model two begin")
    second = here.worker(clock=theirs)
    here.submit("other", stages=("one",))  # the second takes it: it is up, and looks for the dead
    here.await_effect("other one end")
    ours.write_text(str(jump))
    theirs.write_text(str(-jump))
    for n in range(3):  # each goes through a round of the second's watch
        here.await_status(here.submit(f"more {n}", stages=("one",)), "succeeded")
    running = wait_for(lambda: (f := here.client.get(job)).stages[1].rate and f, "a rate")
    assert running.status == "running"
    two = running.stages[1]
    assert 0 < two.rate < 1000  # at most a hundred a second are told
    assert two.eta_seconds == pytest.approx((two.total - two.done) / two.rate)
    here.free("two")
    here.await_status(job, "succeeded")
    for stage in STAGES:
        assert here.effects.count(f"model {stage} begin") == 1
    assert [first.poll(), second.poll()] == [None, None]


def test_the_dead_are_found_whatever_the_clock_says(here: Installation, tmp_path: Path) -> None:
    early, late = tmp_path / "early", tmp_path / "late"
    early.write_text(str(-HOURS))
    late.write_text(str(HOURS))
    here.hold("two")
    job = here.submit()
    first = here.worker(clock=late)
    here.await_effect("model two begin")
    first.kill()
    first.wait()
    here.worker(clock=early)
    here.await_effect("model two begin", times=2)
    here.free("two")
    here.await_status(job, "succeeded")
    assert here.effects.count("model one begin") == 1
