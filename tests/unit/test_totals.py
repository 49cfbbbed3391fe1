"""No figure of the attempts ever falls, whatever becomes of the jobs and of their records."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spoolkit.job import (
    FINISHED,
    Bill,
    Cancelled,
    Dead,
    Done,
    Ending,
    Failure,
    JobSpec,
    Outcome,
    RetryAt,
    State,
    Status,
)
from spoolkit.store import Store, orphans, retention, totals
from spoolkit.store.claims import Granted
from spoolkit.store.totals import BOUNDS, Histogram, Totals
from spoolkit.system import clock

TASKS = ("tasks.one", "tasks.two")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "spoolkit.db"))
    yield store
    store.close()


def a_job(number: int = 1, **given: Any) -> JobSpec:
    values = {"id": f"{number:032x}", "task": TASKS[number % 2], "enqueued_at": 10.0, **given}
    return JobSpec(**values)


def claim(store: Store, job: JobSpec, **given: Any) -> Any:
    return store.claim(job, **{"file": "first", "still_there": lambda: True, "max_attempts": 99, **given})


def attempt(store: Store, at: pytest.MonkeyPatch, job: JobSpec, outcome: Outcome, *, start: float, end: float) -> None:
    at.setattr(clock, "now", lambda: start)
    granted = claim(store, job, file=f"file at {start}")
    assert isinstance(granted, Granted)
    at.setattr(clock, "now", lambda: end)
    assert store.finish(job, granted.attempt, outcome)


def failed(ending: Ending = "failed") -> Dead:
    return Dead(Failure("no luck", "ValueError", "Traceback ...", ending=ending))


def filled(histogram: Histogram) -> dict[float, int]:
    return {bound: times for bound, times in histogram.buckets.items() if times}


def test_figures_tell_how_attempts_ended_and_how_long_they_took(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = a_job(1, run_at=90.0), a_job(2)
    attempt(store, monkeypatch, first, RetryAt(200.0, failed("timeout").failure), start=100.0, end=103.0)
    attempt(store, monkeypatch, first, Done(), start=200.0, end=200.25)
    attempt(store, monkeypatch, second, Done(), start=10.0, end=9.0)  # the clock was set back
    found = store.totals()
    assert found.attempts == {("tasks.two", "timeout"): 1, ("tasks.two", "done"): 1, ("tasks.one", "done"): 1}
    assert (filled(found.run["tasks.two"]), found.run["tasks.two"].microseconds) == ({5.0: 1, 0.5: 1}, 3_250_000)
    assert (filled(found.run["tasks.one"]), found.run["tasks.one"].microseconds) == ({0.01: 1}, 0)
    # Until the first attempt, however many follow.
    assert (filled(found.wait["tasks.two"]), found.wait["tasks.two"].microseconds) == ({10.0: 1}, 10_000_000)


@pytest.mark.parametrize("ending", ["crashed", "lost"])
def test_an_attempt_whose_end_nobody_saw_has_no_duration(store: Store, ending: str) -> None:
    claim(store, a_job())
    with store.transaction() as db:
        db.execute("INSERT INTO events VALUES (?, 1, 5.0, ?, 1, 3.0, NULL, NULL)", (a_job().id, ending))
    assert (store.totals().attempts, store.totals().run) == ({("tasks.two", ending): 1}, {})


def test_what_ends_a_job_without_an_attempt_is_no_attempt(store: Store) -> None:
    store.refuse(a_job(1), Failure("no such task"), file="first")
    store.cancel(Status(a_job(2).id, "tasks.one", State.QUEUED), "not wanted", file=None)
    claim(store, a_job(3), instead=Cancelled(Failure("it expired", ending="expired")))
    assert store.totals() == Totals({}, {}, {})


def test_each_ending_is_counted(store: Store) -> None:
    for number, ending in enumerate(get_args(Ending)):
        assert claim(store, a_job(2 * number)) == Granted(1, 1)
        assert store.finish(a_job(2 * number), 1, failed(ending))
    assert store.totals().attempts == {("tasks.one", ending): 1 for ending in get_args(Ending)}


def test_sums_do_not_depend_on_how_they_are_added(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # As floating-point numbers, (0.1 + 0.2) + 0.3 is more than 0.1 + (0.2 + 0.3).
    for number, seconds in enumerate([0.1, 0.2, 0.3, 0.7, 1e6, 1e-6]):
        attempt(store, monkeypatch, a_job(2 * number), Done(), start=0.0, end=seconds)
    before = store.totals()
    for number in (3, 1, 5, 0, 2, 4):
        assert retention.delete_one(store, [], a_job(2 * number).id)
        assert store.totals() == before


def test_buckets_of_another_version_are_added_to_those_that_hold_them(store: Store) -> None:
    with store.transaction() as db:
        for below in (0.02, 0.05, 7200.0, math.inf):
            db.execute("INSERT INTO totals VALUES ('tasks.one', 'done', ?, 0, 1, 10, 0)", (below,))
    assert filled(store.totals().run["tasks.one"]) == {0.05: 2, math.inf: 2}


def test_a_job_that_is_done_and_runs_again_was_done_once(store: Store) -> None:
    """Its file was put back from a backup."""
    claim(store, a_job())
    store.finish(a_job(), 1, Done())
    before = store.totals()
    store.requeue(a_job().id, still_there=lambda: True)
    assert store.totals() == before
    claim(store, a_job(), file="again")
    store.finish(a_job(), 2, Done(), log="printed")
    assert store.totals().attempts == {("tasks.two", "done"): 2}
    assert retention.delete_one(store, [], a_job().id)
    assert store.totals().attempts == {("tasks.two", "done"): 2}


def test_attempts_stay_with_the_name_that_their_task_had(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = RetryAt(200.0, failed().failure)
    attempt(store, monkeypatch, a_job(), outcome, start=100.0, end=103.0)
    attempt(store, monkeypatch, replace(a_job(), task="tasks.renamed"), Done(), start=200.0, end=203.0)
    assert store.totals().attempts == {("tasks.two", "failed"): 1, ("tasks.two", "done"): 1}


def test_a_deletion_that_is_rolled_back_leaves_the_totals_alone(store: Store) -> None:
    claim(store, a_job())
    store.finish(a_job(), 1, Done())

    def roll_back(id: str, file: str | None) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retention.delete_rows(store, FINISHED, math.inf, 10, file_exists=roll_back)
    assert not store.read("SELECT * FROM totals")


def test_a_query_needs_no_index_on_all_jobs(store: Store) -> None:
    claim(store, a_job())
    plan = [row["detail"] for row in store.read(f"EXPLAIN QUERY PLAN {totals._ALL}")]
    assert "SCAN jobs" in plan
    assert any("INDEX events_of_endings" in line for line in plan)


OUTCOMES = st.sampled_from(
    [
        Done(),
        RetryAt(5000.0, Failure("no luck", ending="failed")),
        RetryAt(5000.0, Failure("no luck", ending="timeout")),
        RetryAt(5000.0, Failure("gone", ending="crashed")),
        failed(),
        Cancelled(Failure("not wanted", ending="discarded")),
    ]
)
JOBS = st.sampled_from([a_job(0), a_job(1), a_job(2, engine="thread")])
FILES = st.sampled_from(["first", "first.1", "again"])


class Figures(RuleBasedStateMachine):
    """A store on which every move is made in any order, at times that may go back."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="totals-")
        self.store = Store(f"{self.folder}/spoolkit.db")
        self.now = 1000.0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(clock, "now", lambda: self.now)
        self.before = Totals({}, {}, {})

    def teardown(self) -> None:
        self.store.close()
        self.patch.undo()
        shutil.rmtree(self.folder)

    @rule(seconds=st.floats(-100, 4000))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(job=JOBS, file=FILES, log=st.sampled_from(["", "printed"]), outcome=OUTCOMES)
    def run(self, job: JobSpec, file: str, log: str, outcome: Outcome) -> None:
        granted = claim(self.store, job, file=None if job.engine == "thread" else file)
        if isinstance(granted, Granted):
            self.now += 0.1
            self.store.finish(job, granted.attempt, outcome, log=log, bill=Bill(0.1, 4096))

    @rule(job=JOBS, file=FILES)
    def start(self, job: JobSpec, file: str) -> None:
        claim(self.store, job, file=None if job.engine == "thread" else file)

    @rule(job=JOBS, file=FILES)
    def start_by_a_later_name(self, job: JobSpec, file: str) -> None:
        """The task was renamed, and has its earlier name as an alias."""
        claim(self.store, replace(job, task="tasks.renamed"), file=None if job.engine == "thread" else file)

    @rule(job=JOBS, outcome=OUTCOMES, log=st.sampled_from(["", "printed"]))
    def end(self, job: JobSpec, outcome: Outcome, log: str) -> None:
        if (status := self.store.status(job.id)) is not None:
            self.store.finish(job, status.attempt, outcome, log=log, bill=Bill(0.3))

    @rule(job=JOBS)
    def requeue(self, job: JobSpec) -> None:
        self.store.requeue(job.id, still_there=lambda: True)

    @rule(job=JOBS)
    def refuse(self, job: JobSpec) -> None:
        self.store.refuse(job, Failure("no such task"), file="first")

    @rule(job=JOBS)
    def cancel(self, job: JobSpec) -> None:
        status = self.store.status(job.id) or Status(job.id, job.task, State.QUEUED)
        self.store.cancel(status, "not wanted", file="first.1")

    @rule(job=JOBS)
    def ask_to_stop(self, job: JobSpec) -> None:
        self.store.ask_to_stop(job.id)

    @rule(job=JOBS)
    def kill_to_cancel(self, job: JobSpec) -> None:
        self.store.cancel_running(job.id, kill=lambda pid: None, read_leftovers=lambda: (None, ""))

    @rule()
    def stop(self) -> None:
        pids = [row["pid"] for row in self.store.read("SELECT DISTINCT pid FROM jobs WHERE state = 'running'")]
        orphans.interrupt(self.store, pids, kill=lambda pid: None, read_leftovers=lambda id, queue: (None, ""))

    @rule()
    def processes_die(self) -> None:
        self.store.read("SELECT 1")
        with self.store.transaction() as db:
            db.execute("UPDATE jobs SET identity = x'00' WHERE pid IS NOT NULL")
        orphans.mark_lost(self.store, self.folder)

    @rule(job=JOBS)
    def record_event(self, job: JobSpec) -> None:
        self.store.record_event(job.id, "run now")

    @rule(job=JOBS)
    def purge_one(self, job: JobSpec) -> None:
        before = self.store.totals()
        retention.delete_one(self.store, [], job.id)
        assert self.store.totals() == before

    @rule(states=st.sets(st.sampled_from(sorted(FINISHED)), min_size=1), limit=st.integers(1, 3))
    def prune(self, states: set[State], limit: int) -> None:
        before = self.store.totals()
        retention.delete_rows(self.store, states, math.inf, limit)
        assert self.store.totals() == before

    @invariant()
    def nothing_falls(self) -> None:
        now = self.store.totals()
        assert not Counter(self.before.attempts) - Counter(now.attempts)
        assert not Counter(self.before.cpu) - Counter(now.cpu)
        for before, after in ((self.before.run, now.run), (self.before.wait, now.wait)):
            for task, histogram in before.items():
                assert all(histogram.buckets[bound] <= after[task].buckets[bound] for bound in BOUNDS)
                assert histogram.microseconds <= after[task].microseconds
        self.before = now


TestFigures = Figures.TestCase
TestFigures.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)


@pytest.mark.matrix
class TestManyFigures(Figures.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
