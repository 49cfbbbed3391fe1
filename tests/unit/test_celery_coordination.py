"""Batches, chains, unique jobs and schedules of jobs in workers of Celery: decided at the origin, as for jobs at home.

The broker is in the memory of this process. A child that is forked from it has a copy: what it had taken from the
broker before it was killed is still there for its parent, as with a broker that gets no acknowledgement.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from celery_site import CelerySite, app_in, settings
from flask import Flask
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from life_faults import CRASHED, at_every, die_at
from life_process import in_child, read_pipe, start_child, wait_child

from spoolkit import RESULT, Batch, Job, Limit, SpoolKit, State, chain, current_job, periodic, registry, spool
from spoolkit.admin import actions
from spoolkit.celery import worker
from spoolkit.coordination import batches as coordination
from spoolkit.lifecycle import sweeping
from spoolkit.schedules import ticks
from spoolkit.schedules.schedule import SECOND
from spoolkit.spooldir import checkpoints, schedules, sent, spoolfile
from spoolkit.spooldir.schedules import tick_id
from spoolkit.spooling import unique_jobs
from spoolkit.spooling.returns import Returns
from spoolkit.system import clock

during: list[Callable[[], None]] = []
"""What the next attempt of that task does first."""

MINUTE = 2_500_000_080.0
"""After the machine's own time, which files get."""

ran: list[str] = []


def note(*words: object) -> None:
    ran.append(" ".join(map(str, words)))


@spool(retries=0)
def double(number: int) -> int:
    note("double", number)
    return 2 * number


@spool(engine="spool")
def at_home(number: int) -> int:
    note("at home", number)
    return number + 1


@spool(retries=0)
def fails() -> None:
    raise ValueError("no")


@spool(retries=0)
def fails_once() -> int:
    if current_job().attempt == 1:
        raise ValueError("not yet")
    return current_job().attempt


@spool(retries=0)
def report() -> object:
    batch = Batch.get(current_job().batch or "")
    note("report", batch.results, current_job().engine)
    return batch.results


@spool(unique=("user",), retries=1, backoff=0)
def export(user: int, word: str = "") -> str:
    note("export", user, word)
    if word == "fails":
        raise ValueError(word)
    return word


@spool(unique=("user",), until="start", on_duplicate="replace")
def index(user: int, word: str = "") -> None:
    note("index", user, word)


@spool(retries=1, backoff=10)
def nightly(how: str = "") -> None:
    job = current_job()
    note("nightly", int((job.run_at or 0) - MINUTE), job.engine, job.schedule, job.is_late)
    if how == "fails" and job.attempt == 1:
        raise ValueError(how)


@spool(limit=Limit(1))
def limited() -> None:
    note("limited", current_job().engine)


@spool(retries=2, backoff=0)
def resumes(how: str = "fails") -> list[int]:
    job = current_job()
    seen: list[int] = job.resume([])
    note("attempt", job.attempt, seen)
    job.checkpoint([*seen, job.attempt])
    if how == "too large":
        job.checkpoint("x" * checkpoints.LIMIT)
    if job.attempt < 3:
        raise ValueError(how)
    return seen


@spool(retries=1, backoff=0)
def steps() -> None:
    for step in current_job().steps("abc"):
        note(step)
        if step == "b" and current_job().attempt == 1:
            raise ValueError(step)


@spool(retries=0)
def asks_whether_to_stop() -> None:
    during.pop()()
    for _ in range(600):
        if current_job().cancelled:
            return
        time.sleep(0.1)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    ran.clear()
    during.clear()
    with app_in(tmp_path, "coordinated_site") as app:
        yield app


@pytest.fixture
def spool_dir(app: Flask, tmp_path: Path) -> str:
    return str(tmp_path / "spool")


@pytest.fixture
def site(app: Flask, spool_dir: str) -> Iterator[CelerySite]:
    site = CelerySite(app, spool_dir)
    yield site
    site.returns.close()


def run(site: CelerySite, spool_dir: str) -> None:
    """Let everything run until nothing is left."""
    for _ in range(30):
        if not spoolfile.pending(spool_dir):
            return
        site.run_due()
    raise AssertionError(spoolfile.pending(spool_dir))


def after_kills(site: CelerySite, spool_dir: str, stride: int, prepare: Callable[[], Callable[[int], None]]) -> None:
    """Kill the origin at steps of what it does when it hears reports, each time with new jobs.

    Args:
        site: The site.
        spool_dir: Its spool directory.
        stride: How many steps there are from one kill to the next.
        prepare: Makes jobs. Returns what is to be asserted of them, with the number of the step, once all is over.
    """
    for step in range(0, 2000, stride):
        check = prepare()
        site.publish()
        site.work()
        site.returns.close()  # its lock is inherited otherwise

        def origin(step: int = step) -> None:
            returns = Returns(spool_dir, wait=0.01)
            die_at(step)
            returns.step()

        status = in_child(origin)
        assert status in (0, CRASHED)
        site.returns = Returns(spool_dir, wait=0.01)
        site.hear()
        coordination.sweep(spool_dir)
        run(site, spool_dir)
        check(step)
        if status == 0:
            return
    pytest.fail("it never came to its end")


# Batches


def test_a_batch_of_jobs_in_workers_calls_back_at_home(site: CelerySite, spool_dir: str) -> None:
    with Batch("numbers", then=report.call()) as batch:
        jobs = [batch.add(double, number) for number in range(3)]
        batch.add(at_home, 6)
    assert [job.engine for job in (*jobs, *batch.jobs)] == ["celery"] * 6 + ["spool"]
    run(site, spool_dir)
    assert (batch.complete, batch.results) == (True, [0, 2, 4, 7])
    assert ran[-1] == "report [0, 2, 4, 7] spool"
    assert batch.callback is not None
    assert batch.callback.state is State.DONE


def test_a_callback_that_is_declared_for_workers_runs_there_and_knows_its_batch(
    site: CelerySite, app: Flask, spool_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other applications of this process need no broker for it.
    monkeypatch.setattr(registry.this_process, "tasks", dict(registry.this_process.tasks))

    @spool(engine="celery", name="report elsewhere")
    def report_elsewhere() -> str | None:
        return current_job().batch

    worker.with_tasks(app)
    with Batch("elsewhere", then=report_elsewhere.call()) as batch:
        batch.add(double, 1)
    run(site, spool_dir)
    assert batch.callback is not None
    assert (batch.callback.engine, batch.callback.result) == ("celery", batch.id)


def test_a_dead_member_that_is_retried_opens_its_batch_again(site: CelerySite, spool_dir: str) -> None:
    with Batch("opened again", then=report.call()) as batch:
        member = batch.add(fails)
    run(site, spool_dir)
    assert (batch.complete, member.state, batch.status.generation) == (True, State.DEAD, 1)
    actions.retry(member.id)
    run(site, spool_dir)
    assert (batch.complete, batch.status.generation, member.attempt) == (True, 2, 2)


def test_members_that_wait_are_cancelled_after_a_death(site: CelerySite, spool_dir: str) -> None:
    with Batch("all or nothing", then=report.call(), on_death="cancel") as batch:
        batch.add(fails)
        waiting = batch.add(double.using(delay=1000).call(1))
    site.run_due()
    assert waiting.state is State.CANCELLED
    assert batch.complete
    site.run_due()
    assert ran == ["report [] spool"]


def test_members_with_the_broker_and_in_workers_stop_after_a_death(site: CelerySite, spool_dir: str) -> None:
    with Batch("all or nothing", then=report.call(), on_death="cancel") as batch:
        dies = batch.add(fails)
        stops = batch.add(asks_whether_to_stop)
        is_sent = batch.add(double, 1)
    site.publish()
    messages = {message.headers["id"]: message for message in site.take()}
    during.append(lambda: site.run(messages[dies.id]))
    site.run(messages[stops.id])
    site.hear()
    assert (stops.state, is_sent.state) == (State.CANCELLED, State.CANCELLED)
    site.run(messages[is_sent.id])
    run(site, spool_dir)
    assert (batch.complete, ran) == (True, ["report [] spool"])


@at_every(23)
def test_a_kill_of_the_origin_that_hears_of_the_last_end_loses_no_callback(
    site: CelerySite, spool_dir: str, stride: int
) -> None:
    def prepare() -> Callable[[int], None]:
        ran.clear()
        with Batch("killed", then=report.call()) as batch:
            batch.add(double, 1)
            batch.add(fails)

        def check(step: int) -> None:
            assert (batch.complete, batch.status.generation, batch.results) == (True, 1, [2]), step
            assert sorted(job.state for job in batch.jobs) == [State.DEAD, State.DONE], step
            assert batch.callback is not None
            assert [line for line in ran if line.startswith("report")] == ["report [2] spool"], step

        return check

    after_kills(site, spool_dir, stride, prepare)


# Chains


def test_a_chain_goes_on_from_workers_to_home_and_back(site: CelerySite, spool_dir: str) -> None:
    jobs = chain(double.call(1), at_home.call(RESULT), double.call(RESULT))
    run(site, spool_dir)
    assert ([job.engine for job in jobs.jobs], jobs.result) == (["celery", "spool", "celery"], 6)
    assert ran == ["double 1", "at home 2", "double 3"]


def test_a_chain_stops_after_a_job_that_is_dead_and_goes_on_after_its_retry(site: CelerySite, spool_dir: str) -> None:
    jobs = chain(fails_once.call(), double.call(RESULT))
    run(site, spool_dir)
    assert (jobs.finished, jobs.jobs[0].state, ran) == (True, State.DEAD, [])
    actions.retry(jobs.jobs[0].id)
    run(site, spool_dir)
    assert (jobs.result, ran) == (4, ["double 2"])


def test_a_job_whose_result_does_not_fit_the_next_call_is_dead(site: CelerySite, app: Flask, spool_dir: str) -> None:
    app.config["SPOOLKIT_MAX_RESULT"] = 1
    jobs = chain(double.call(1000), double.call(RESULT))
    run(site, spool_dir)
    assert jobs.jobs[0].state is State.DEAD
    assert "the next job of its chain cannot be made" in (jobs.jobs[0].status.error_message or "")


@at_every(23)
def test_a_kill_of_the_origin_that_hears_of_an_end_goes_on_with_the_chain_once(
    site: CelerySite, spool_dir: str, stride: int
) -> None:
    def prepare() -> Callable[[int], None]:
        ran.clear()
        jobs = chain(double.call(1), double.call(RESULT))

        def check(step: int) -> None:
            assert (jobs.result, ran) == (4, ["double 1", "double 2"]), step

        return check

    after_kills(site, spool_dir, stride, prepare)


# Unique jobs


@pytest.mark.parametrize("word", ["", "fails"])
def test_a_key_is_held_until_the_end_is_known_at_the_origin(site: CelerySite, spool_dir: str, word: str) -> None:
    job = export(5, word)
    site.publish()
    assert (export(5) == job, export(6) == job) == (True, False)
    (message, *_) = site.take()
    site.run(message)
    if not word:
        first, _ = export.map([(5,), (7,)])  # its worker is done, and the origin has not heard of that yet
        assert first == job
    run(site, spool_dir)
    assert job.state is (State.DEAD if word else State.DONE)
    assert export(5) != job


def test_a_job_that_waits_for_another_attempt_holds_its_key(site: CelerySite, spool_dir: str) -> None:
    job = export(5, "fails")
    site.run_due()
    assert (job.state, export(5).duplicate) == (State.RETRYING, True)
    site.publish()
    assert export(5) == job
    run(site, spool_dir)
    assert (job.state, export(5).duplicate) == (State.DEAD, False)


def test_a_job_is_replaced_until_it_is_sent_and_then_it_is_as_one_that_runs(site: CelerySite, spool_dir: str) -> None:
    job = index.using(delay=1000)(5, "a")
    assert index(5, "b") == job
    site.publish()
    assert len(sent.paths(spool_dir)) == 1
    again = index(5, "c")
    assert (again, again.duplicate, job.state) == (job, True, State.QUEUED)
    run(site, spool_dir)
    assert ran == ["index 5 b"]
    assert index(5, "d") != job


@pytest.mark.parametrize("doubt", ["killed", "published again"])
def test_a_message_with_arguments_that_were_replaced_since_is_not_run(
    site: CelerySite, spool_dir: str, monkeypatch: pytest.MonkeyPatch, doubt: str
) -> None:
    job = index(5, "a")
    with monkeypatch.context() as kill:
        if doubt == "killed":
            kill.setattr(sent, "place", raise_killed)
        site.publish()
    (before,) = site.take()
    if doubt != "killed":
        sent.publish_again(*sent.paths(spool_dir), spool_dir)
    assert index(5, "b") == job
    site.run(before)
    assert (ran, job.state) == ([], State.QUEUED)
    run(site, spool_dir)
    site.run(before)
    site.hear()
    assert (ran, job.state) == (["index 5 b"], State.DONE)


def test_a_job_that_was_put_off_since_is_not_started_early(site: CelerySite, spool_dir: str) -> None:
    job = index(5, "a")
    site.publish()
    (before,) = site.take()
    sent.publish_again(*sent.paths(spool_dir), spool_dir)
    assert index.using(delay=1000)(5, "a") == job
    site.run(before)
    assert (ran, job.state) == ([], State.QUEUED)


def raise_killed(*_: object) -> str:
    raise OSError("killed")


def test_a_job_that_is_replaced_stays_where_it_was_accepted_for(site: CelerySite, app: Flask, spool_dir: str) -> None:
    job = index.using(delay=1000)(5, "a")
    app.config["SPOOLKIT_ENGINE"] = "spool"
    assert (index(5, "b"), index(6, "c").engine) == (job, "spool")
    run(site, spool_dir)
    assert (job.engine, job.status.engine, sorted(ran)) == ("celery", "celery", ["index 5 b", "index 6 c"])


def test_a_key_is_not_free_because_the_file_is_locked_while_a_broker_hangs(
    site: CelerySite, spool_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unique_jobs, "CLAIM_TIME", 0.0)
    job = index(5, "a")
    (path,) = spoolfile.pending(spool_dir)
    ready, done = os.pipe(), os.pipe()

    def publish() -> None:
        with spoolfile.claim(path) as fd:
            assert fd is not None
            os.write(ready[1], b"x")
            read_pipe(done[0])

    child = start_child(publish)
    try:
        read_pipe(ready[0])
        again = index(5, "b")
    finally:
        os.write(done[1], b"x")
        status = wait_child(child)
        for fd in (*ready, *done):
            os.close(fd)
    assert (status, again, again.duplicate) == (0, job, True)
    run(site, spool_dir)
    assert ran == ["index 5 a"]


@at_every(23)
def test_a_kill_of_the_origin_that_hears_of_an_end_frees_the_key_with_the_end(
    site: CelerySite, spool_dir: str, stride: int
) -> None:
    def prepare() -> Callable[[int], None]:
        ran.clear()
        job = export(5, "x")
        assert not job.duplicate

        def check(step: int) -> None:
            assert (job.state, ran) == (State.DONE, ["export 5 x"]), step

        return check

    after_kills(site, spool_dir, stride, prepare)


# Periodic tasks


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch, spool_dir: str) -> list[float]:
    """The time, with no schedule declared yet."""
    monkeypatch.setattr(registry.this_process, "schedules", {})
    monkeypatch.setattr(sweeping, "_sweeps", [])
    time = [MINUTE - 30]
    monkeypatch.setattr(clock, "now", lambda: time[0])
    return time


def declare(spool_dir: str, task: Any = nightly, **options: Any) -> None:
    periodic(**{"every": 60, "name": "night", **options})(task)
    ticks.reconcile(spool_dir)


def tick(time: float) -> Job[Any]:
    return Job.get(tick_id("night", int(time * SECOND)))


def test_a_periodic_task_is_published_when_it_is_due(site: CelerySite, now: list[float], spool_dir: str) -> None:
    declare(spool_dir)
    site.run_due()
    assert (ran, sent.paths(spool_dir)) == ([], [])
    for minute in range(3):
        now[0] = MINUTE + 60 * minute
        site.run_due()
    assert ran == [f"nightly {60 * minute} celery night False" for minute in range(3)]
    assert tick(MINUTE + 60).state is State.DONE
    assert len(spoolfile.pending(spool_dir)) == 1


def test_runs_do_not_overlap_from_the_publication_until_the_end_is_known(
    site: CelerySite, now: list[float], spool_dir: str
) -> None:
    declare(spool_dir)
    now[0] = MINUTE
    site.publish()
    now[0] = MINUTE + 60
    site.publish()  # no worker was free until then
    assert tick(MINUTE + 60).state is State.CANCELLED
    assert f"the run before it, job {tick(MINUTE).id}, still runs" in (tick(MINUTE + 60).status.error_message or "")
    site.work()
    now[0] = MINUTE + 120
    site.publish()  # its end is not known yet
    assert tick(MINUTE + 120).state is State.CANCELLED
    site.hear()
    now[0] = MINUTE + 180
    site.run_due()
    assert (tick(MINUTE + 180).state, len(ran)) == (State.DONE, 2)


def test_with_all_a_run_waits_until_the_end_of_the_one_before_is_known(
    site: CelerySite, now: list[float], spool_dir: str
) -> None:
    declare(spool_dir, missed="all")
    now[0] = MINUTE + 61  # two are due, and the second one is not made before the end of the first
    site.publish()
    assert len(spoolfile.pending(spool_dir)) == 1
    site.work()
    site.hear()
    site.run_due()
    assert [line.split()[1] for line in ran] == ["0", "60"]


def test_runs_may_overlap_where_that_is_allowed(site: CelerySite, now: list[float], spool_dir: str) -> None:
    declare(spool_dir, overlap="allow")
    now[0] = MINUTE
    site.publish()
    now[0] = MINUTE + 60
    site.publish()
    assert len(sent.paths(spool_dir)) == 2
    site.work()
    site.hear()
    assert len(ran) == 2


def test_a_run_knows_that_it_is_late_and_is_tried_again(site: CelerySite, now: list[float], spool_dir: str) -> None:
    declare(spool_dir, args=("fails",), every=3600)
    due = tick_due(spool_dir)
    now[0] = due + 1000
    site.run_due()
    now[0] += 11
    site.run_due()
    assert ran == [f"nightly {due - MINUTE:.0f} celery night True"] * 2
    assert tick(due).state is State.DONE


def tick_due(spool_dir: str) -> float:
    state = schedules.read(spool_dir, "night")
    assert state is not None
    assert state.next is not None
    return state.next / SECOND


def test_a_run_that_no_worker_was_free_for_in_time_is_skipped(
    site: CelerySite, now: list[float], spool_dir: str
) -> None:
    declare(spool_dir, every=3600, max_late=90)
    now[0] = due = tick_due(spool_dir)
    site.publish()
    now[0] = due + 100
    site.work()
    assert (ran, tick(due).state, tick(due).status.ending) == ([], State.CANCELLED, "skipped")
    assert tick(due).status.error_message == "it was 100 s late, and max_late is 90 s"


def test_a_run_that_is_back_in_the_spool_directory_starts_only_when_that_is_decided_anew(
    site: CelerySite, now: list[float], spool_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(spool_dir)
    now[0] = MINUTE
    with monkeypatch.context() as kill:
        kill.setattr(sent, "place", raise_killed)
        site.publish()
    (first,) = site.take()
    site.run(first)
    assert (ran, tick(MINUTE).state) == ([], State.QUEUED)
    site.run_due()
    site.run(first)
    site.hear()
    assert (len(ran), tick(MINUTE).state) == (1, State.DONE)


def test_a_run_that_workers_cannot_have_stays_at_home(site: CelerySite, now: list[float], spool_dir: str) -> None:
    declare(spool_dir, limited)
    now[0] = MINUTE
    site.publish()
    assert ran == ["limited spool"]


# Checkpoints


def test_the_next_attempt_resumes_where_the_last_one_was_wherever_it_runs(site: CelerySite, spool_dir: str) -> None:
    job = resumes()
    site.run_due()
    assert checkpoints.read(spool_dir, job.id) == ([1], [])
    run(site, spool_dir)
    assert (job.result, ran) == ([1, 2], ["attempt 1 []", "attempt 2 [1]", "attempt 3 [1, 2]"])
    assert checkpoints.read(spool_dir, job.id) is None


def test_steps_that_are_done_are_not_done_again(site: CelerySite, spool_dir: str) -> None:
    job = steps()
    run(site, spool_dir)
    assert (job.state, ran) == (State.DONE, ["a", "b", "b", "c"])


def test_a_dead_job_that_is_retried_goes_on_from_its_checkpoint(site: CelerySite, spool_dir: str) -> None:
    job = resumes.using(retries=0)()
    run(site, spool_dir)
    assert (job.state, checkpoints.read(spool_dir, job.id)) == (State.DEAD, ([1], []))
    actions.retry(job.id)
    run(site, spool_dir)
    assert ran[1] == "attempt 2 [1]"


def test_a_checkpoint_that_is_too_large_is_refused_in_the_task(site: CelerySite, spool_dir: str) -> None:
    job = resumes.using(retries=0)("too large")
    run(site, spool_dir)
    assert (job.state, job.status.error_type) == (State.DEAD, "TooLargeError")
    assert checkpoints.read(spool_dir, job.id) == ([1], [])


def test_a_task_does_not_go_on_with_a_checkpoint_that_the_broker_does_not_have(
    site: CelerySite, spool_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("away")

    job = resumes.using(retries=0)()
    with monkeypatch.context() as away:
        away.setattr(worker._AttemptFile, "_send", refuse)
        site.run_due()
    assert (job.state, job.status.error_type) == (State.DEAD, "StoreUnavailableError")
    assert "cannot be sent: away" in (job.status.error_message or "")


@at_every(23)
def test_a_kill_of_the_origin_that_hears_of_an_end_keeps_the_checkpoint_for_the_next_attempt(
    site: CelerySite, spool_dir: str, stride: int
) -> None:
    def prepare() -> Callable[[int], None]:
        ran.clear()
        job = resumes()

        def check(step: int) -> None:
            assert (job.result, ran[-1]) == ([1, 2], "attempt 3 [1, 2]"), step

        return check

    after_kills(site, spool_dir, stride, prepare)


# In any order


class UniqueJobs(RuleBasedStateMachine):
    """Calls of unique tasks, while spoolers, workers and the origin do their parts in any order."""

    def __init__(self) -> None:
        super().__init__()
        ran.clear()
        self._stack = contextlib.ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self.spool_dir = os.path.join(folder, "spool")
        os.mkdir(self.spool_dir, 0o700)
        app = Flask("unique_jobs", root_path=folder)
        app.config.update(SPOOLKIT_SPOOL=self.spool_dir, SPOOLKIT_ENGINE="celery", CELERY=settings())
        SpoolKit(app)
        self._stack.enter_context(app.app_context())
        self.site = CelerySite(app, self.spool_dir)
        self._stack.callback(self.site.returns.close)
        self.messages: list[Any] = []
        #: By task, the accepted jobs.
        self.jobs: dict[str, list[Job[Any]]] = {"export": [], "index": []}
        #: The arguments that the job of a call has by now, as its caller was told.
        self.words: dict[str, str] = {}

    def _waiting(self, task: str) -> list[Job[Any]]:
        over = {State.QUEUED} if task == "index" else {State.QUEUED, State.RUNNING, State.RETRYING}
        return [job for job in self.jobs[task] if job.state in over]

    @rule(task=st.sampled_from(["export", "index"]), word=st.sampled_from(["a", "b", "fails"]))
    def call(self, task: str, word: str) -> None:
        before = self._waiting(task)
        job = (export if task == "export" else index)(1, word)
        if job.duplicate:
            assert [job] == before
        else:
            assert before == []
            self.jobs[task].append(job)
        if job.args:
            self.words[job.id] = word

    @rule()
    def publish(self) -> None:
        self.site.publish()
        self.messages += self.site.take()

    @rule()
    def publish_and_be_killed(self) -> None:
        with pytest.MonkeyPatch.context() as kill:
            kill.setattr(sent, "place", raise_killed)
            self.site.publish()
        self.messages += self.site.take()

    @rule()
    def doubt(self) -> None:
        """The origin publishes again what no worker has started, as far as it knows."""
        self.site.returns._publish_again(sent.paths(self.spool_dir))

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        message = data.draw(st.sampled_from(self.messages))  # it stays: the broker may deliver it again
        before = len(ran)
        self.site.run(message)
        for line in ran[before:]:
            assert line.split()[2] == self.words[message.headers["id"]]

    @rule()
    def hear(self) -> None:
        self.site.hear()

    @invariant()
    def each_key_is_held_by_one_job_at_most(self) -> None:
        for task in self.jobs:
            assert len(self._waiting(task)) <= 1, task

    def teardown(self) -> None:
        self._stack.close()


TestUniqueJobs = pytest.mark.matrix(UniqueJobs.TestCase)
TestUniqueJobs.settings = hypothesis.settings(max_examples=15, stateful_step_count=30)
