"""The store's conformance suite: every move from every state, what a claim returns, and a file that is unusable.

It is long because it checks one promise from all sides.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from life_process import in_child, start_child, wait_child

from spoolkit import JobTimeout, StoreUnavailableError
from spoolkit.job import (
    FINISHED,
    MOVES,
    Cancelled,
    Dead,
    Done,
    Failure,
    JobSpec,
    Outcome,
    Progress,
    RetryAt,
    State,
    Status,
)
from spoolkit.store import Store, database, queries, rows
from spoolkit.store.claims import ARGUMENTS_LIMIT, AlreadySettled, Granted, InUse, PreviousCrashed
from spoolkit.store.retention import delete_rows
from spoolkit.store.transitions import Result
from spoolkit.system import clock, process

ID = f"{1:032x}"
FAILURE = Failure("no luck", "ValueError", "Traceback ...")
LATER = RetryAt(5000.0, FAILURE)
EXPIRED = Cancelled(Failure("it expired", ending="expired"))
ENDS: dict[State, Outcome] = {
    State.DONE: Done(),
    State.RETRYING: LATER,
    State.DEAD: Dead(FAILURE),
    State.CANCELLED: Cancelled(Failure("not wanted", ending="discarded")),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "spoolkit.db"))
    yield store
    store.close()


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock."""
    return lambda now: monkeypatch.setattr(clock, "now", lambda: now)


LEFT = (Progress(1, 3, "parts"), "its last words")
"""The progress and the log that an attempt leaves behind if its process is killed."""


def a_job(number: int = 1, **given: Any) -> JobSpec:
    return JobSpec(**{"id": f"{number:032x}", "task": "tasks.one", "enqueued_at": 10.0, **given})


def claim(store: Store, job: JobSpec | None = None, **given: Any) -> Any:
    return store.claim(job or a_job(), **{"file": "first", "still_there": lambda: True, "max_attempts": 3, **given})


def state_of(store: Store, id: str = ID) -> State | None:
    status = store.status(id)
    return None if status is None else status.state


def events_of(store: Store, id: str = ID) -> list[tuple[Any, ...]]:
    return [tuple(event) for event in queries.events(store, id)]


def kinds(store: Store, id: str = ID) -> list[str]:
    return [event.kind for event in queries.events(store, id)]


def write(store: Store, sql: str, *values: object) -> None:
    with store.transaction() as db:
        db.execute(sql, values)


# Each move from each state.


def start(store: Store) -> None:
    assert claim(store) == Granted(1, 1)


def start_and_die(store: Store) -> None:
    assert in_child(lambda: start(store)) == 0


def end_as(state: State) -> Callable[[Store], None]:
    def end(store: Store) -> None:
        start(store)
        assert store.finish(a_job(), 1, ENDS[state])

    return end


def queue_again(store: Store) -> None:
    end_as(State.DEAD)(store)
    store.requeue(ID, still_there=lambda: True)


def lose(store: Store) -> None:
    start(store)
    write(store, "UPDATE jobs SET state = 'lost', finished_at = 1.0 WHERE id = ?", ID)


FROM: dict[str, Callable[[Store], object]] = {
    "unknown": lambda store: None,
    "queued": queue_again,
    "running": start,
    "running, process gone": start_and_die,
    "retrying": end_as(State.RETRYING),
    "done": end_as(State.DONE),
    "dead": end_as(State.DEAD),
    "cancelled": end_as(State.CANCELLED),
    "lost": lose,
}


def status(state: State = State.QUEUED) -> Status:
    return Status(ID, "tasks.one", state, enqueued_at=10.0)


MOVE: dict[str, Callable[[Store], object]] = {
    "claim": lambda store: claim(store),
    "claim under its next name": lambda store: claim(store, file="first.1"),
    "claim, but its file has left the name": lambda store: claim(store, file="first.1", still_there=lambda: False),
    "expire": lambda store: claim(store, instead=EXPIRED),
    "expire under its next name": lambda store: claim(store, file="first.1", instead=EXPIRED),
    "put off": lambda store: claim(store, instead=RetryAt(5000.0, FAILURE)),
    "done": lambda store: store.finish(a_job(), 1, Done()),
    "retry later": lambda store: store.finish(a_job(), 1, LATER),
    "die": lambda store: store.finish(a_job(), 1, Dead(FAILURE)),
    "end as cancelled": lambda store: store.finish(a_job(), 1, ENDS[State.CANCELLED]),
    "end of another attempt": lambda store: store.finish(a_job(), 2, Done()),
    "refuse": lambda store: store.refuse(a_job(), Failure("no such task"), file="first"),
    "cancel": lambda store: store.cancel(status(), "not wanted", file="first"),
    "ask to stop": lambda store: store.ask_to_stop(ID),
    "retried": lambda store: store.requeue(ID, still_there=lambda: True),
}

# The state that follows. A move that is not named here changes nothing.
NEXT: dict[str, dict[str, str]] = {
    "unknown": {
        "claim": "running",
        "claim under its next name": "running",
        "expire": "cancelled",
        "expire under its next name": "cancelled",
        "refuse": "dead",
        "cancel": "cancelled",
    },
    "queued": {
        "claim": "running",
        "claim under its next name": "running",
        "expire": "cancelled",
        "expire under its next name": "cancelled",
        "refuse": "dead",
        "cancel": "cancelled",
    },
    "running": {
        "expire under its next name": "cancelled",
        "done": "done",
        "retry later": "retrying",
        "die": "dead",
        "end as cancelled": "cancelled",
        "refuse": "dead",
    },
    "running, process gone": {
        "expire under its next name": "cancelled",
        "done": "done",
        "retry later": "retrying",
        "die": "dead",
        "end as cancelled": "cancelled",
        "refuse": "dead",
        "cancel": "cancelled",
        "retried": "queued",
    },
    "retrying": {
        "claim under its next name": "running",
        "expire under its next name": "cancelled",
        "refuse": "dead",
        "cancel": "cancelled",
        "retried": "queued",
    },
    "dead": {
        "claim": "running",
        "claim under its next name": "running",
        "expire": "cancelled",
        "expire under its next name": "cancelled",
        "retried": "queued",
        "cancel": "cancelled",
    },
    "done": {},
    "cancelled": {},
    "lost": {
        "claim": "running",
        "claim under its next name": "running",
    },
}


# A job is requeued if its file is among the dead, whatever is recorded. Jobs in these states have no file there.
NEVER = {("retried", before) for before in ("running", "done", "cancelled", "lost")}


@pytest.mark.parametrize(
    ("before", "move"), [(before, move) for before in FROM for move in MOVE if (move, before) not in NEVER]
)
def test_each_move_from_each_state_leads_where_the_table_says(store: Store, before: str, move: str) -> None:
    FROM[before](store)
    was, earlier = store.status(ID), events_of(store)
    MOVE[move](store)
    now = store.status(ID)
    expected = NEXT[before].get(move, before.partition(",")[0])
    assert (now.state.value if now else "unknown") == expected
    # Whatever the table above says: MOVES decides, and a job that has reached its final state does not change.
    if was is not None and now is not None:
        assert now.state is was.state or now.state in MOVES[was.state] or move == "retried"
        if not MOVES[was.state]:
            assert now == was
    assert events_of(store)[: len(earlier)] == earlier


@pytest.mark.parametrize("before", FROM)
def test_only_finished_jobs_have_a_finish_time(store: Store, before: str) -> None:
    FROM[before](store)
    found = store.status(ID)
    if found is not None:
        assert (found.finished_at is not None) == (found.state in FINISHED)


@pytest.mark.parametrize("state", ENDS)
def test_finish_changes_nothing_the_second_time(store: Store, state: State) -> None:
    end_as(state)(store)
    was, earlier = store.status(ID), events_of(store)
    assert store.finish(a_job(), 1, ENDS[state]) is None
    assert store.finish(a_job(), 1, Done(), result=Result(b"1")) is None
    assert (store.status(ID), events_of(store)) == (was, earlier)


def test_finish_refuses_an_attempt_that_is_not_the_last(store: Store) -> None:
    end_as(State.RETRYING)(store)
    assert claim(store, file="first.1") == Granted(2, 2)
    assert store.finish(a_job(), 1, Done()) is None
    assert state_of(store) is State.RUNNING
    assert store.finish(a_job(), 2, Done()) is State.DONE


def test_finish_refuses_an_unrecorded_job(store: Store) -> None:
    assert store.finish(a_job(), 1, Done()) is None
    assert store.status(ID) is None


@pytest.mark.parametrize("after", State)
@pytest.mark.parametrize("before", State)
def test_move_raises_and_changes_nothing_unless_moves_allows_it(store: Store, before: State, after: State) -> None:
    with store.transaction() as db:
        rows.insert(db, ID, before, 1.0, {"task": "tasks.one", "engine": "spool"})
        row = rows.find(db, ID)
        assert row is not None
        if after in MOVES[before]:
            rows.move(db, row, after, 2.0, {"attempt": 1})
        else:
            with pytest.raises(rows.ForbiddenMoveError, match=f"{ID}.*{after}.*{before}"):
                rows.move(db, row, after, 2.0, {"attempt": 1})
    expected = after if after in MOVES[before] else before
    found = store.status(ID)
    assert found is not None
    assert (found.state, found.attempt) == (expected, int(expected is not before))
    assert (found.finished_at is not None) == (expected in FINISHED)


# What a claim returns.


def test_claim_records_the_job_and_its_process(store: Store, at: Callable[[float], None]) -> None:
    at(100.0)
    job = a_job(queue="/there", run_at=50.0)
    assert claim(store, job, file="uwsgi_spoolfile_on_x", max_attempts=4) == Granted(1, 1)
    assert store.status(ID) == Status(
        id=ID,
        task="tasks.one",
        state=State.RUNNING,
        queue="/there",
        attempt=1,
        max_attempts=4,
        enqueued_at=10.0,
        run_at=50.0,
        started_at=100.0,
        pid=os.getpid(),
        file="uwsgi_spoolfile_on_x",
    )


def test_claim_refuses_a_file_that_has_lost_its_name(store: Store) -> None:
    assert claim(store, still_there=lambda: False) == InUse()
    assert store.status(ID) is None


def test_claim_asks_for_the_name_within_its_transaction(store: Store, tmp_path: Path) -> None:
    def still_there() -> bool:
        with (
            closing(sqlite3.connect(store.path, timeout=0, isolation_level=None)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        return True

    assert claim(store, still_there=still_there) == Granted(1, 1)


def test_claim_leaves_a_job_to_the_process_that_runs_it(store: Store) -> None:
    start(store)

    def other() -> None:
        assert claim(store) == InUse()

    assert in_child(other) == 0
    assert kinds(store) == ["started"]


def test_claim_finds_a_crash_if_its_own_process_left_it_open(store: Store, at: Callable[[float], None]) -> None:
    at(100.0)
    start(store)
    # It runs one job at a time: if it claims the job again, it does not run it any more.
    assert claim(store) == PreviousCrashed(1, 1, os.getpid(), 100.0, False)


def test_claim_finds_a_crash_if_the_process_is_gone(store: Store, at: Callable[[float], None]) -> None:
    at(100.0)
    pid = start_child(lambda: start(store))
    assert wait_child(pid) == 0
    assert claim(store) == PreviousCrashed(1, 1, pid, 100.0, False)
    assert kinds(store) == ["started"], "a claim ends no attempt"


def test_claim_finds_a_crash_if_the_process_is_a_zombie(store: Store) -> None:
    pid = start_child(lambda: start(store))
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert isinstance(claim(store), PreviousCrashed)
    finally:
        wait_child(pid)


def test_claim_finds_a_crash_if_a_later_process_has_the_same_pid(store: Store) -> None:
    start(store)
    # The parent process lives, but the recorded identity is that of an earlier process with the same pid.
    write(store, "UPDATE jobs SET pid = ?, identity = ?", os.getppid(), b" 1 another boot\n")
    assert isinstance(claim(store), PreviousCrashed)
    write(store, "UPDATE jobs SET identity = ?", process.identity(os.getppid()))
    assert claim(store) == InUse()


def test_an_earlier_process_with_the_pid_of_this_one_counts_as_gone(store: Store) -> None:
    start(store)
    write(store, "UPDATE jobs SET identity = ?", b" 1 another boot\n")
    found = store.status(ID)
    assert found is not None
    assert found.pid is None
    assert (
        store.cancel_running(ID, kill=lambda pid: pytest.fail(f"{pid} was killed"), read_leftovers=lambda: LEFT)
        is False
    )


def test_a_crash_says_whether_the_job_was_asked_to_stop(store: Store) -> None:
    def ask() -> None:
        start(store)
        assert store.ask_to_stop(ID)

    assert in_child(ask) == 0
    crash = claim(store)
    assert isinstance(crash, PreviousCrashed)
    assert crash.cancel_asked


def test_claim_of_a_settled_file_records_that_the_last_end_is_unknown(store: Store) -> None:
    start(store)
    assert claim(store, file="first.1") == Granted(2, 2)
    first, second = store.history(ID)[0]
    assert (first.outcome, first.message) == ("failed", "how it ended was not recorded")
    assert (second.number, second.outcome) == (2, "running")


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (State.DONE, AlreadySettled(Done())),
        (State.RETRYING, AlreadySettled(RetryAt(5000.0, Failure("no luck", "ValueError")))),
        (State.CANCELLED, AlreadySettled(Cancelled(Failure("not wanted")))),
    ],
)
def test_claim_returns_the_recorded_outcome_of_an_unsettled_file(
    store: Store, state: State, verdict: AlreadySettled
) -> None:
    end_as(state)(store)
    assert claim(store) == verdict


@pytest.mark.parametrize("state", [State.DONE, State.CANCELLED])
@pytest.mark.parametrize("name", ["first", "first.1", "elsewhere", None])
def test_claim_refuses_a_finished_job_under_every_file_name(store: Store, state: State, name: str | None) -> None:
    end_as(state)(store)
    assert isinstance(claim(store, file=name), AlreadySettled)


def test_claim_counts_attempts_up_to_the_limit(store: Store) -> None:
    for number in (1, 2, 3):
        assert claim(store, file=f"f.{number}") == Granted(number, number)
        assert store.finish(a_job(), number, LATER)
    found = claim(store, file="f.4")
    assert found == AlreadySettled(Dead(Failure("no attempt is left")))
    assert state_of(store) is State.RETRYING  # recorded once the file is among the dead
    assert claim(store, file="f.4", max_attempts=4) == Granted(4, 4)


def test_claim_counts_crashed_attempts(store: Store) -> None:
    for number in (1, 2):
        # Each in a process of its own, which dies in it.
        assert in_child(lambda number=number: claim(store, file=f"f.{number}")) == 0  # type: ignore[misc]
        crash = claim(store, file=f"f.{number}")
        assert (crash.attempt, crash.attempt_since_reset) == (number, number)
        assert store.finish(a_job(), number, LATER)
    assert claim(store, file="f.3", max_attempts=2) == AlreadySettled(Dead(Failure("no attempt is left")))


@pytest.mark.parametrize("noted", [True, False])
def test_a_requeued_job_has_all_its_attempts_again(store: Store, noted: bool) -> None:
    for number in (1, 2):
        assert claim(store, file=f"f.{number}", max_attempts=2) == Granted(number, number)
        assert store.finish(a_job(), number, LATER if number == 1 else Dead(FAILURE))
    if noted:  # else its file was moved back by hand
        store.requeue(ID, still_there=lambda: True)
        found = store.status(ID)
        assert found is not None
        assert (found.state, found.attempt, found.max_attempts, found.finished_at) == (State.QUEUED, 2, None, None)
    assert claim(store, file="f", max_attempts=2) == Granted(3, 1)
    found = store.status(ID)
    assert found is not None
    assert (found.attempt, found.max_attempts) == (3, 4)
    assert store.finish(a_job(), 3, LATER)
    assert claim(store, file="f.1", max_attempts=2) == Granted(4, 2)
    assert store.finish(a_job(), 4, LATER)
    assert claim(store, file="f.2", max_attempts=2) == AlreadySettled(Dead(Failure("no attempt is left")))


@pytest.mark.parametrize("noted", [True, False])
def test_a_requeued_job_is_no_longer_asked_to_stop(store: Store, noted: bool) -> None:
    start(store)
    assert store.ask_to_stop(ID)
    assert store.finish(a_job(), 1, Dead(Failure("gave up", ending="aborted")))
    if noted:
        store.requeue(ID, still_there=lambda: True)
    assert claim(store) == Granted(2, 1)
    assert store.finish(a_job(), 2, LATER)
    assert state_of(store) is State.RETRYING


def test_claim_clears_the_error_and_the_progress_of_the_last_attempt(store: Store) -> None:
    start(store)
    assert store.finish(a_job(), 1, LATER, progress=Progress(1, 2, "half"))
    was = store.status(ID)
    assert was is not None
    assert (was.error_type, was.error_message, was.ending) == ("ValueError", "no luck", "failed")
    assert (was.progress, was.run_at) == (Progress(1, 2, "half"), 5000.0)
    claim(store, file="first.1")
    now = store.status(ID)
    assert now is not None
    assert (now.error_type, now.error_message, now.ending, now.progress) == (None, None, None, None)


# What people do.


def test_a_job_that_was_asked_to_stop_is_not_retried(store: Store) -> None:
    start(store)
    assert store.ask_to_stop(ID) is True
    found = store.status(ID)
    assert found is not None
    assert found.cancel_asked
    assert found.state is State.RUNNING
    assert store.finish(a_job(), 1, LATER)
    assert state_of(store) is State.CANCELLED
    assert isinstance(claim(store, file="first.1"), AlreadySettled)


@pytest.mark.parametrize("state", [State.DONE, State.DEAD])
def test_a_job_that_was_asked_to_stop_too_late_ends_as_it_did(store: Store, state: State) -> None:
    start(store)
    assert store.ask_to_stop(ID)
    assert store.finish(a_job(), 1, ENDS[state])
    assert state_of(store) is state


def test_cancel_running_kills_the_process_that_runs_the_job(store: Store) -> None:
    killed: list[int] = []
    start(store)
    assert store.cancel_running(ID, kill=killed.append, read_leftovers=lambda: LEFT) is True
    assert killed == [os.getpid()]
    assert kinds(store) == ["started", "killed", "cancelled"]
    found = store.status(ID)
    assert found is not None
    assert (found.state, found.progress, found.pid) == (State.CANCELLED, LEFT[0], None)
    assert f"its process {os.getpid()} was killed in attempt 1" in str(found.error_message)
    ((attempt,), _) = store.history(ID)
    assert (attempt.outcome, attempt.log) == ("cancelled", LEFT[1])


@pytest.mark.parametrize("before", sorted(set(FROM) - {"running"}))
def test_cancel_running_kills_nothing_if_the_job_does_not_run(store: Store, before: str) -> None:
    FROM[before](store)
    assert (
        store.cancel_running(ID, kill=lambda pid: pytest.fail(f"{pid} was killed"), read_leftovers=lambda: LEFT)
        is False
    )


def test_cancel_running_kills_within_its_transaction(store: Store) -> None:
    start(store)

    def kill(pid: int) -> None:
        with (
            closing(sqlite3.connect(store.path, timeout=0, isolation_level=None)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")

    assert store.cancel_running(ID, kill=kill, read_leftovers=lambda: LEFT)


def test_cancel_records_an_unrecorded_job_as_it_was_accepted(store: Store, at: Callable[[float], None]) -> None:
    at(100.0)
    waiting = Status(ID, "tasks.one", State.QUEUED, queue="/there", enqueued_at=10.0, run_at=4e9)
    assert store.cancel(waiting, "not wanted", file="first") is True
    found = store.status(ID)
    assert found is not None
    assert (found.state, found.queue, found.enqueued_at, found.run_at) == (State.CANCELLED, "/there", 10.0, 4e9)
    assert (found.finished_at, found.error_message, found.ending) == (100.0, "not wanted", "cancelled")
    assert kinds(store) == ["cancelled"]


def test_refuse_records_the_reason(store: Store, at: Callable[[float], None]) -> None:
    at(100.0)
    store.refuse(a_job(), Failure("no such task", "UnknownTaskError"), file="first")
    found = store.status(ID)
    assert found is not None
    assert (found.state, found.attempt, found.finished_at) == (State.DEAD, 0, 100.0)
    assert (found.error_type, found.error_message) == ("UnknownTaskError", "no such task")
    assert kinds(store) == ["refused"]


def test_record_event_ignores_an_unrecorded_job(store: Store) -> None:
    store.record_event(ID, "run now")
    assert events_of(store) == []


# What is recorded.


@pytest.mark.parametrize("size", [0, 1, ARGUMENTS_LIMIT - 1, ARGUMENTS_LIMIT, ARGUMENTS_LIMIT + 1])
def test_claim_keeps_arguments_up_to_the_limit(store: Store, size: int) -> None:
    given = b"a" * size
    claim(store, arguments=given)
    assert store.arguments(ID) == (given if 0 < size <= ARGUMENTS_LIMIT else None)


def test_later_claims_keep_the_arguments(store: Store) -> None:
    claim(store, arguments=b"[1]")
    store.finish(a_job(), 1, LATER)
    claim(store, file="first.1")
    assert store.arguments(ID) == b"[1]"


def test_finish_keeps_the_result_or_why_there_is_none(store: Store) -> None:
    for number, result in enumerate([Result(b"{}"), Result(error="too large"), None], 1):
        job = a_job(number)
        claim(store, job)
        assert store.finish(job, 1, Done(), result=result)
        found = store.status(job.id)
        assert found is not None
        assert (found.result, found.result_error) == ((result.data, result.error) if result else (None, None))


def test_text_that_is_not_utf8_is_kept_with_escapes(store: Store) -> None:
    claim(store, a_job(queue="/\udcff"), file="first.\udcff")
    half = Failure("half \ud800", "Odd\udcffError", "Traceback \ud800")
    assert store.finish(a_job(), 1, Dead(half), log="printed \udcff", progress=Progress(1, 2, "\ud800"))
    (attempt,), _ = store.history(ID)
    assert attempt.message == "half \ud800"
    assert attempt.log == "printed \\udcff"
    found = store.status(ID)
    assert found is not None
    assert found.error_message == "half \\ud800"


def test_history_returns_attempts_and_events_in_order(store: Store, at: Callable[[float], None]) -> None:
    at(100.0)
    start(store)
    at(90.0)  # the clock was set back
    store.ask_to_stop(ID)
    at(110.0)
    store.finish(a_job(), 1, Dead(FAILURE), log="printed")
    store.requeue(ID, still_there=lambda: True)
    at(120.0)
    claim(store)
    (first, second), events = store.history(ID)
    assert (first.number, first.started_at, first.finished_at, first.outcome) == (1, 100.0, 110.0, "failed")
    assert (first.pid, first.error_type, first.message) == (os.getpid(), "ValueError", "no luck")
    assert (first.traceback, first.log) == ("Traceback ...", "printed")
    assert (second.number, second.finished_at, second.outcome) == (2, None, "running")
    assert [(event.time, event.kind) for event in events] == [(90.0, "cancel asked"), (110.0, "retried")]


@given(moves=st.lists(st.tuples(st.sampled_from(sorted(MOVE)), st.integers(-50, 50)), max_size=12))
def test_events_are_only_ever_added(tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int]]) -> None:
    store, now, earlier = Store(str(tmp_path_factory.mktemp("events") / "spoolkit.db")), 1000.0, list[Any]()
    with closing(store), pytest.MonkeyPatch.context() as patch:
        for move, seconds in moves:
            now += seconds
            patch.setattr(clock, "now", lambda now=now: now)
            MOVE[move](store)
            found = events_of(store)
            assert found[: len(earlier)] == earlier
            numbers = [row["seq"] for row in store.read("SELECT seq FROM events WHERE job = ? ORDER BY seq", (ID,))]
            assert numbers in ([], list(range(1, len(found) + 1)))
            earlier = found


def write_derived(store: Store) -> None:
    """Write into the table what only the row of the job tells."""
    with store.transaction() as db:
        row = rows.find(db, ID)
        for seq, event in enumerate(rows.derived_events(row) if row is not None else [], 1):
            db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (ID, seq, *event))
            db.execute("UPDATE jobs SET has_events = 1 WHERE id = ?", (ID,))


@given(moves=st.lists(st.tuples(st.sampled_from(sorted(MOVE)), st.integers(-50, 50)), max_size=12))
def test_events_that_the_row_tells_equal_those_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int]]
) -> None:
    folder, now = tmp_path_factory.mktemp("events"), 1000.0
    with (
        closing(Store(str(folder / "derived.db"))) as derived,
        closing(Store(str(folder / "written.db"))) as written,
        pytest.MonkeyPatch.context() as patch,
    ):
        for move, seconds in moves:
            now += seconds
            patch.setattr(clock, "now", lambda now=now: now)
            for store in derived, written:
                MOVE[move](store)
            write_derived(written)
            assert events_of(derived) == events_of(written)
            assert derived.history(ID) == written.history(ID)


def test_events_of_a_process_of_the_version_before_do_not_keep_an_end_from_being_recorded(store: Store) -> None:
    claim(store)
    # That process has the file open since before it was migrated, and does not know has_events.
    write(store, "INSERT INTO events (job, seq, time, kind, attempt) VALUES (?, 1, 1, 'cancel asked', 1)", ID)
    assert store.finish(a_job(), 1, LATER)
    assert kinds(store) == ["cancel asked", "started", "failed"]


def test_a_time_limit_that_strikes_after_begin_leaves_no_transaction_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(store)
    execute = database._execute

    def interrupted(*args: Any, **kwargs: Any) -> None:
        execute(*args, **kwargs)
        raise JobTimeout

    monkeypatch.setattr(database, "_execute", interrupted)
    with pytest.raises(JobTimeout):
        store.ask_to_stop(ID)
    monkeypatch.undo()
    claim(store, a_job(2))
    with closing(Store(store.path)) as other:
        assert state_of(other, a_job(2).id) is State.RUNNING


def test_a_file_of_the_version_that_wrote_all_events_keeps_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:3])
        write(
            store,
            "INSERT INTO jobs (id, task, engine, state, attempt, base, max_attempts, started_at, pid, identity, file)"
            " VALUES (?, 'tasks.one', 'spool', 'running', 1, 0, 3, 100.0, 5, ?, 'first')",
            ID,
            process.own(),
        )
        write(store, "INSERT INTO events VALUES (?, 1, 100.0, 'started', 1, NULL, '{\"pid\": 5}', NULL)", ID)
        store.close()
    before = events_of(store)
    assert [event[1] for event in before] == ["started"]
    assert store.finish(a_job(), 1, Done())
    assert events_of(store)[:1] == before
    assert kinds(store) == ["started", "done"]


# Deletion.


def ended(store: Store, at: Callable[[float], None], number: int, state: State, time: float) -> str:
    at(time)
    job = a_job(number)
    claim(store, job, file=f"file {number}")
    store.finish(job, 1, ENDS[state])
    return job.id


def test_delete_rows_deletes_old_jobs_with_their_events(store: Store, at: Callable[[float], None]) -> None:
    old = ended(store, at, 1, State.DONE, 100.0)
    edge = ended(store, at, 2, State.DONE, 200.0)
    cancelled = ended(store, at, 3, State.CANCELLED, 100.0)
    dead = ended(store, at, 4, State.DEAD, 100.0)
    retrying = ended(store, at, 5, State.RETRYING, 100.0)
    assert delete_rows(store, (State.DONE, State.CANCELLED), 200.0, 100) == 2
    assert set(store.states([old, edge, cancelled, dead, retrying])) == {edge, dead, retrying}
    assert events_of(store, old) == []
    assert kinds(store, edge) == ["started", "done"]


def test_delete_rows_deletes_the_oldest_first_up_to_the_limit(store: Store, at: Callable[[float], None]) -> None:
    ids = [ended(store, at, number, State.DONE, 200.0 - number) for number in range(1, 8)]
    also = ended(store, at, 9, State.CANCELLED, 1.0)
    assert delete_rows(store, (State.DONE, State.CANCELLED), 1000.0, 3) == 3
    assert set(store.states([*ids, also])) == {*ids[:4], also}
    assert delete_rows(store, (State.DONE, State.CANCELLED), 1000.0, 5) == 5
    assert delete_rows(store, (State.DONE, State.CANCELLED), 1000.0, 3) == 0


def test_delete_rows_keeps_a_job_whose_file_exists(store: Store, at: Callable[[float], None]) -> None:
    here, gone = (ended(store, at, number, State.DONE, 100.0) for number in (1, 2))
    assert (
        delete_rows(store, (State.DONE,), 200.0, 10, file_exists=lambda id, file: (id, file) == (here, "file 1")) == 1
    )
    assert store.states([here, gone]) == {here: State.DONE}


@pytest.mark.parametrize("before", ["queued", "running", "running, process gone", "retrying"])
def test_delete_rows_keeps_unfinished_jobs(store: Store, before: str) -> None:
    FROM[before](store)
    assert delete_rows(store, State, 1e12, 100) == 0
    assert state_of(store) is not None


def test_delete_rows_keeps_a_dead_job_that_runs_again(store: Store) -> None:
    FROM["dead"](store)
    claim(store)
    assert delete_rows(store, (State.DEAD,), 1e12, 100) == 0


# Queries.


def test_statuses_filters_by_state_task_and_time_newest_first(store: Store, at: Callable[[float], None]) -> None:
    done = [ended(store, at, number, State.DONE, 100.0) for number in (1, 2)]
    dead = ended(store, at, 3, State.DEAD, 105.5)
    claim(store, a_job(4, task="tasks.two", enqueued_at=20.0))
    ids = [status.id for status in store.statuses()]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 4
    assert [status.id for status in store.statuses(states=(State.DONE,), limit=1)] == [done[1]]
    assert store.statuses(states=(State.DEAD, State.DONE), tasks=["tasks.one"], limit=1)[0].id == dead
    assert [status.task for status in store.statuses(since=20.0)] == ["tasks.two"]
    assert store.counts(State) == {
        ("tasks.one", "dead"): 1,
        ("tasks.one", "done"): 2,
        ("tasks.two", "running"): 1,
    }
    assert set(store.states([f"{number:032x}" for number in range(2000)])) == {f"{n:032x}" for n in range(1, 5)}


def test_durations_returns_the_seconds_sorted(store: Store, at: Callable[[float], None]) -> None:
    for number, (begun, over) in enumerate([(10.0, 15.0), (20.0, 22.0), (1.0, 2.0)], 1):
        at(begun)
        claim(store, a_job(number))
        at(over)
        store.finish(a_job(number), 1, Done())
    assert store.durations(5.0, 10) == [2.0, 5.0]
    assert len(store.durations(5.0, 1)) == 1
    assert store.done_since(5.0) == 2


def test_reading_creates_no_file(store: Store) -> None:
    assert store.status(ID) is None
    assert store.statuses() == []
    assert store.counts(State) == {}
    assert not os.path.exists(store.path)


def test_only_the_owner_can_read_the_file(store: Store) -> None:
    umask = os.umask(0)
    try:
        start(store)
    finally:
        os.umask(umask)
    folder = os.path.dirname(store.path)
    for name in os.listdir(folder):
        assert os.stat(os.path.join(folder, name)).st_mode & 0o777 == 0o600, name


# A file of another version.

ADDED = "ALTER TABLE jobs ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';\nCREATE TABLE paints (name TEXT);\n"


def version(store: Store) -> int:
    return int(store.read("PRAGMA user_version")[0][0])


def test_an_older_file_is_migrated_with_its_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    start(store)
    store.close()
    was = version(store)
    store.close()
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, ADDED))
    assert [row["colour"] for row in store.read("SELECT colour FROM jobs")] == ["red"]
    assert version(store) == was + 1
    assert store.finish(a_job(), 1, Done())
    assert kinds(store) == ["started", "done"]


def test_a_failed_migration_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    start(store)
    was = version(store)
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, f"{ADDED}CREATE NONSENSE;\n"))
        with pytest.raises(StoreUnavailableError, match="NONSENSE"):
            store.status(ID)
    assert state_of(store) is State.RUNNING
    assert version(store) == was
    with pytest.raises(StoreUnavailableError, match="colour"):
        store.read("SELECT colour FROM jobs")


def test_a_file_of_a_later_version_is_refused_and_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    start(store)
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, ADDED))
        later = version(store)
        store.close()
    content = Path(store.path).read_bytes()
    for use in (lambda: store.status(ID), lambda: claim(store), lambda: delete_rows(store, FINISHED, 1e12, 10)):
        with pytest.raises(StoreUnavailableError, match=f"version {later}.*update spoolkit") as caught:
            use()
        assert caught.value.path == store.path
    assert Path(store.path).read_bytes() == content


def test_many_processes_can_create_the_file_at_once(store: Store, tmp_path: Path) -> None:
    gate, opened = os.pipe()

    def first(number: int) -> None:
        os.close(opened)
        os.read(gate, 1)  # until all are there
        assert claim(store, a_job(number)) == Granted(1, 1)

    children = [start_child(lambda number=number: first(number)) for number in range(6)]  # type: ignore[misc]
    os.close(opened)
    os.close(gate)
    assert [wait_child(pid) for pid in children] == [0] * 6
    assert store.counts(State) == {("tasks.one", "running"): 6}


# A file that is unusable.


def garbage(path: str) -> None:
    Path(path).write_bytes(b"no database at all " * 500)


def a_directory(path: str) -> None:
    os.mkdir(path)


def a_link_to_itself(path: str) -> None:
    os.symlink(path, path)


def a_foreign_table(path: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE jobs (salary INTEGER)")


def no_folder(path: str) -> None:
    os.rmdir(os.path.dirname(path))


def away(path: str) -> None:
    """Move everything at ``path`` and beside it away."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        os.rename(os.path.join(folder, name), f"{folder}.{name}.away")


def back(path: str) -> None:
    """Move back what :func:`away` moved."""
    folder = os.path.dirname(path)
    for moved in Path(folder).parent.glob(f"{os.path.basename(folder)}.*.away"):
        os.rename(moved, os.path.join(folder, moved.name.split(".", 1)[1].removesuffix(".away")))


OBSTACLES = [garbage, a_directory, a_link_to_itself, a_foreign_table, no_folder]

USES: dict[str, Callable[[Store], object]] = {
    "claim": claim,
    "finish": lambda store: store.finish(a_job(), 1, Done()),
    "refuse": lambda store: store.refuse(a_job(), FAILURE, file=None),
    "cancel": lambda store: store.cancel(status(), "not wanted", file="first"),
    "ask to stop": lambda store: store.ask_to_stop(ID),
    "record_event": lambda store: store.record_event(ID, "run now"),
    "requeue": lambda store: store.requeue(ID, still_there=lambda: True),
    "delete_rows": lambda store: delete_rows(store, FINISHED, 1e12, 10),
}

QUESTIONS: dict[str, Callable[[Store], object]] = {
    "status": lambda store: store.status(ID),
    "arguments": lambda store: store.arguments(ID),
    "states": lambda store: store.states([ID]),
    "statuses": lambda store: store.statuses(),
    "history": lambda store: store.history(ID),
    "counts": lambda store: store.counts(State),
    "durations": lambda store: store.durations(0.0, 10),
    "done_since": lambda store: store.done_since(0.0),
}


@pytest.fixture
def boxed(tmp_path: Path) -> Iterator[Store]:
    """A store whose file does not exist yet, in a folder of its own."""
    (tmp_path / "box").mkdir()
    store = Store(str(tmp_path / "box" / "spoolkit.db"))
    yield store
    store.close()


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("use", USES)
def test_every_move_raises_if_the_file_is_unusable(boxed: Store, obstacle: Callable[[str], None], use: str) -> None:
    obstacle(boxed.path)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError) as caught:
            USES[use](boxed)
        assert caught.value.path == boxed.path
        assert boxed.path in str(caught.value)


@pytest.mark.parametrize("obstacle", [garbage, a_directory, a_foreign_table])
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_query_raises_if_the_file_is_unusable(
    boxed: Store, obstacle: Callable[[str], None], question: str
) -> None:
    obstacle(boxed.path)
    with pytest.raises(StoreUnavailableError):
        QUESTIONS[question](boxed)


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_the_store_works_again_once_the_obstacle_is_gone(boxed: Store, obstacle: Callable[[str], None]) -> None:
    obstacle(boxed.path)
    with pytest.raises(StoreUnavailableError):
        claim(boxed)
    away(boxed.path)
    assert claim(boxed) == Granted(1, 1)
    assert state_of(boxed) is State.RUNNING


def test_a_damaged_file_raises_and_a_restored_one_is_used(boxed: Store) -> None:
    start(boxed)
    boxed.close()  # so that all is in the one file
    whole = Path(boxed.path).read_bytes()
    Path(boxed.path).write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    for use in (claim, state_of):
        with pytest.raises(StoreUnavailableError, match="malformed"):
            use(boxed)
    Path(boxed.path).write_bytes(whole)
    assert state_of(boxed) is State.RUNNING
    assert claim(boxed, a_job(2)) == Granted(1, 1)


def test_a_move_is_recorded_in_the_file_that_is_at_the_path_now(boxed: Store) -> None:
    start(boxed)
    away(boxed.path)  # as `flask spool doctor` advises for a damaged one
    assert claim(boxed, a_job(2)) == Granted(1, 1)
    assert os.path.exists(boxed.path), "it is recorded in a file that no other process opens"
    with closing(Store(boxed.path)) as another:
        assert set(another.states([ID, a_job(2).id])) == {a_job(2).id}


def test_a_process_that_opens_a_new_file_late_leaves_its_log_alone(boxed: Store) -> None:
    """The last process to close a file removes the log beside it by name: by then it may be another file's log."""
    start(boxed)
    away(boxed.path)
    code = (
        "import sys; from spoolkit.job import JobSpec; from spoolkit.store import Store; "
        "store = Store(sys.argv[1]);"
        "give = lambda n: store.claim(JobSpec(f'{n:032x}', 't'), file='f', still_there=lambda: True, max_attempts=3);"
        "give(2); print(flush=True); sys.stdin.readline(); give(3)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, boxed.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        assert claim(boxed, a_job(4)) == Granted(1, 1)
        print(file=other.stdin, flush=True)
        assert other.wait(30) == 0
    boxed.close()
    assert set(boxed.states([f"{number:032x}" for number in range(9)])) == {f"{number:032x}" for number in (2, 3, 4)}


def test_garbage_at_the_path_raises_and_a_restored_file_is_used(boxed: Store) -> None:
    start(boxed)
    away(boxed.path)
    garbage(boxed.path)
    with pytest.raises(StoreUnavailableError):
        claim(boxed, a_job(2))
    os.unlink(boxed.path)
    back(boxed.path)
    assert state_of(boxed) is State.RUNNING
    assert claim(boxed, a_job(2)) == Granted(1, 1)


def test_a_lasting_lock_raises_and_readers_do_not_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 0.05)
    start(store)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.finish(a_job(), 1, Done())
        assert state_of(store) is State.RUNNING  # reading does not wait
        other.execute("ROLLBACK")
    assert store.finish(a_job(), 1, Done())


def test_an_error_within_a_transaction_rolls_it_back(store: Store) -> None:
    start(store)

    def fail(pid: int) -> None:
        raise PermissionError(pid)

    with pytest.raises(PermissionError):
        store.cancel_running(ID, kill=fail, read_leftovers=lambda: LEFT)
    assert kinds(store) == ["started"]
    with contextlib.suppress(ZeroDivisionError), store.transaction() as db:
        db.execute("DELETE FROM jobs")
        raise ZeroDivisionError
    assert state_of(store) is State.RUNNING
    assert store.finish(a_job(), 1, Done())


# Several processes and threads.


def test_after_a_fork_each_process_has_a_connection_of_its_own(store: Store) -> None:
    start(store)
    with store.transaction() as db:

        def child() -> None:
            own = store._opened(store._connection.get())
            assert own is not db
            assert not own.in_transaction, "it is in its parent's transaction"
            assert state_of(store) is State.RUNNING

        assert in_child(child) == 0
        # The child's exit must not release this process's lock.
        with (
            closing(sqlite3.connect(store.path, timeout=0, isolation_level=None)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE jobs SET attempt = 7")
    found = store.status(ID)
    assert found is not None
    assert found.attempt == 7


def test_a_child_records_and_its_parent_sees_it(store: Store) -> None:
    start(store)

    def child() -> None:
        assert store.finish(a_job(), 1, Done())
        store.close()

    assert in_child(child) == 0
    assert state_of(store) is State.DONE
    assert claim(store, a_job(2)) == Granted(1, 1)


def test_a_closed_store_opens_again(store: Store) -> None:
    start(store)
    store.close()
    store.close()
    assert state_of(store) is State.RUNNING


PROCESSES = 4


@pytest.mark.parametrize("jobs", [200, pytest.param(1000, marks=pytest.mark.matrix)])
def test_many_processes_move_many_jobs_at_once(store: Store, jobs: int) -> None:
    """Each claims and finishes so many jobs of its own, in two moves, and all claim the same job meanwhile."""
    start(store)  # the file is there
    store.finish(a_job(), 1, LATER)
    gate, opened = os.pipe()

    def work(process: int) -> None:
        os.close(opened)
        os.read(gate, 1)  # until all are there
        for number in range(jobs):
            job = a_job((process + 1) * 10_000 + number)
            assert claim(store, job) == Granted(1, 1)
            outcome = Done() if number % 2 else Dead(FAILURE)
            assert store.finish(job, 1, outcome)
            if number % 100 == 0:
                found = claim(store, file="first.1", max_attempts=10**6)
                assert isinstance(found, (Granted, InUse, PreviousCrashed)), found

    begun = time.monotonic()
    children = [start_child(lambda number=number: work(number)) for number in range(PROCESSES)]  # type: ignore[misc]
    os.close(opened)
    os.close(gate)
    assert [wait_child(pid, 110) for pid in children] == [0] * PROCESSES, "see what the children printed"
    print(f"{PROCESSES * jobs * 2 / (time.monotonic() - begun):.0f} moves a second")
    half = PROCESSES * jobs // 2
    assert store.counts(State) == {
        ("tasks.one", "dead"): half,
        ("tasks.one", "done"): half,
        ("tasks.one", "running"): 1,
    }
    found = store.status(ID)
    assert found is not None
    assert found.attempt == 2, "more than one process got the job that all claimed"
    for number in range(PROCESSES * jobs):
        id = a_job((number // jobs + 1) * 10_000 + number % jobs).id
        assert kinds(store, id) == ["started", "done" if number % 2 else "failed"]
    assert store.read("PRAGMA integrity_check")[0][0] == "ok"


# What an attempt costs


def statements_of(store: Store, use: Callable[[], object], *, frames: bool = False) -> list[str]:
    """The statements that ``use`` executes, with or without those that begin and end a transaction."""
    seen: list[str] = []
    db = store._opened(store._connection.get())
    db.set_trace_callback(seen.append)
    try:
        use()
    finally:
        db.set_trace_callback(None)
    return [text for text in seen if frames or text not in ("BEGIN IMMEDIATE", "COMMIT")]


@pytest.mark.parametrize("state", sorted(ENDS))
def test_a_first_attempt_and_its_end_are_four_statements(state: State, store: Store) -> None:
    def attempt() -> None:
        start(store)
        assert store.finish(a_job(), 1, ENDS[state], result=Result(b"1"), progress=Progress(1), log="printed")

    assert len(statements_of(store, attempt)) == 4


def test_a_first_attempt_that_is_done_is_two_statements_without_a_frame(store: Store) -> None:
    def attempt() -> None:
        start(store)
        assert store.finish(a_job(), 1, Done(), result=Result(b"1"), progress=Progress(1))

    seen = statements_of(store, attempt, frames=True)
    assert [text.split()[0] for text in seen] == ["INSERT", "UPDATE"]


@pytest.mark.parametrize(
    "write",
    [
        lambda store: claim(store, a_job(2)),  # closed between two jobs, by a thread or a task of another library
        lambda store: store.finish(a_job(), 1, Done()),
    ],
    ids=["claim", "end"],
)
def test_no_statement_writes_to_a_file_that_has_a_closed_descriptors_number(
    store: Store, tmp_path: Path, write: Callable[[Store], object]
) -> None:
    def work() -> None:
        start(store)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        others = [os.open(tmp_path / "mine", os.O_RDWR | os.O_CREAT) for _ in range(20)]
        with pytest.raises(StoreUnavailableError, match="closed the store's descriptors"):
            write(store)
        assert store.is_lost
        assert os.fstat(others[0]).st_size == 0

    assert in_child(work) == 0


def test_the_statements_of_an_attempt_have_the_same_text_for_every_job(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: set[str] = set()

    class Recorded(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            texts.add(sql)
            return super().execute(sql, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Recorded, **options))

    def attempt(number: int) -> None:
        assert claim(store, a_job(number), file=f"file {number}", arguments=b"[[], {}]") == Granted(1, 1)
        assert store.finish(a_job(number), 1, Done(), result=Result(b"%d" % number))

    attempt(1)
    before = set(texts)
    attempt(2)
    assert texts == before
