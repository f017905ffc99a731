"""Jobs against real workers, with SQLite; workers are killed, jobs cancelled and retried."""

import signal

import pytest

from tests.unit.jobs.conftest import STAGES, Installation, wait_for


def test_a_job_runs_through_its_stages_and_tells_how_far_it_is(here: Installation) -> None:
    here.hold("two")
    job = here.submit()
    assert here.client.get(job).status == "queued"
    here.worker()
    here.await_effect("model two begin")
    running = wait_for(lambda: (f := here.client.get(job)).stages[1].rate and f, "a rate")
    assert running.status == "running"
    assert [stage.status for stage in running.stages] == ["done", "running", "waiting"]
    two = running.stages[1]
    assert two.total == 10_000
    assert two.done > 0
    assert two.eta_seconds == pytest.approx((two.total - two.done) / two.rate)
    assert running.model is None
    here.free("two")
    done = here.await_status(job, "succeeded")
    assert [stage.status for stage in done.stages] == ["done"] * 3
    assert done.model == "model"
    assert done.created <= done.started <= done.finished
    assert here.effects == [f"model {s} {e}" for s in STAGES for e in ("begin", "end")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_workers_job_goes_on_at_its_stage(here: Installation, stage: str) -> None:
    here.hold(stage)
    job = here.submit()
    first = here.worker()
    here.await_effect(f"model {stage} begin")
    first.kill()
    first.wait()
    here.worker()
    here.await_effect(f"model {stage} begin", times=2)
    here.free(stage)
    here.await_status(job, "succeeded")
    for name in STAGES:
        assert here.effects.count(f"model {name} end") == 1
        assert here.effects.count(f"model {name} begin") == (2 if name == stage else 1)


def test_two_workers_do_not_run_one_job_twice(here: Installation) -> None:
    here.hold("two")
    job = here.submit()
    workers = [here.worker(), here.worker()]
    here.await_effect("model two begin")
    other = here.submit("second")  # the other worker takes it: both are up
    here.await_effect("second two begin")
    here.free("two")
    for name in (job, other):
        here.await_status(name, "succeeded")
    assert len(here.effects) == len(set(here.effects)) == 12
    assert all(worker.poll() is None for worker in workers)


def test_the_living_take_over_from_the_dead(here: Installation) -> None:
    """No worker is started after the death: the one that lived on takes the job."""
    here.hold("one")
    jobs = {here.submit("a"), here.submit("b")}
    first, second = here.worker(), here.worker()
    here.await_effect("a one begin")
    here.await_effect("b one begin")
    second.kill()
    here.free("one")
    for job in jobs:
        here.await_status(job, "succeeded")
    assert first.poll() is None


def test_a_running_job_is_cancelled_and_can_be_taken_up_again(here: Installation) -> None:
    here.hold("two")
    job = here.submit()
    here.worker()
    here.await_effect("model two begin")
    assert here.client.cancel(job).status == "cancelled"
    # the only place of the only worker is free again, though the stage would go on for ever
    here.await_status(here.submit("next", stages=("one",)), "succeeded")
    here.free("two")
    assert here.client.cancel(job).status == "cancelled"
    assert here.client.retry(job).status in ("queued", "running")
    here.await_status(job, "succeeded")
    assert here.effects.count("model one end") == 1
    assert here.effects.count("model two end") == 1


def test_a_queued_job_is_cancelled(here: Installation) -> None:
    job = here.submit()
    assert here.client.cancel(job).status == "cancelled"
    here.worker()
    here.await_status(here.submit("next"), "succeeded")
    assert not [line for line in here.effects if line.startswith("model ")]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("disk full", "No space left while writing"),
        ("surprise", "Unexpected KeyError: 'surprise'"),
        ("die", "The process of the stage two ended with exit code 7"),
    ],
)
def test_a_failed_stage_is_told_and_retried(here: Installation, how: str, message: str) -> None:
    here.fail("two", how)
    job = here.submit()
    here.worker()
    failed = here.await_status(job, "failed")
    assert message in failed.error
    assert failed.stages[1].error == failed.error
    assert [stage.status for stage in failed.stages] == ["done", "failed", "waiting"]
    lines, _ = here.client.logs(job)
    assert any(message in line.message for line in lines)
    if how == "die":
        assert any(line.message == "last words" for line in lines)
    here.mend("two")
    retried = here.client.retry(job)
    assert retried.id == job
    done = here.await_status(job, "succeeded")
    assert done.error is None
    assert here.effects.count("model one begin") == 1
    assert here.effects.count("model two begin") == 2


def test_a_stage_may_fork(here: Installation) -> None:
    job = here.submit(stages=("fork",))
    here.worker()
    here.await_status(job, "succeeded")
    assert "forked" in here.effects


def test_larger_priorities_go_first(here: Installation) -> None:
    here.hold("one")
    first = here.submit("first")
    here.worker()
    here.await_effect("first one begin")
    jobs = [here.submit(f"p{n}", priority) for n, priority in enumerate((0, 5, -5, 9))]
    here.free("one")
    for job in (first, *jobs):
        here.await_status(job, "succeeded")
    begun = [line.split()[0] for line in here.effects if line.endswith("one begin")]
    assert begun == ["first", "p3", "p1", "p0", "p2"]


def test_the_total_is_kept_over_workers(here: Installation) -> None:
    here.hold("one")
    jobs = [here.submit("a"), here.submit("b")]
    here.worker(total=1)
    here.worker(total=1)
    here.await_effect("a one begin")
    here.free("one")
    for job in jobs:
        here.await_status(job, "succeeded")
    order = [line.split()[0] for line in here.effects]
    assert order == ["a"] * 6 + ["b"] * 6


def test_a_stopped_worker_puts_its_job_back(here: Installation) -> None:
    here.hold("two")
    job = here.submit()
    first = here.worker()
    here.await_effect("model two begin")
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    assert here.client.get(job).status == "queued"
    here.worker()
    here.await_effect("model two begin", times=2)
    here.free("two")
    here.await_status(job, "succeeded")
    assert here.effects.count("model one end") == 1
