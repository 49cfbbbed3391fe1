"""How does a job get from one state into the next? A move that its present state does not allow changes nothing.

Whether an attempt may start is asked in :mod:`~spoolkit.store.claims`, and jobs whose process is gone are in
:mod:`~spoolkit.store.orphans`. Each function raises :class:`StoreUnavailableError` if the move cannot be recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from spoolkit.job import (
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
from spoolkit.store import rows
from spoolkit.store.database import Database
from spoolkit.system import clock, process


@dataclass(frozen=True)
class Result:
    """What a job that is done returned."""

    #: The value in the codec's bytes.
    data: bytes | None = None
    #: Why the value could not be kept.
    error: str | None = None


def record_queued(store: Database, jobs: Iterable[JobSpec]) -> None:
    """Record that ``jobs`` wait in this process; those that are recorded already are left as they are."""
    queued = [(job.id, rows.encodable(job.task), job.enqueued_at, os.getpid(), process.own()) for job in jobs]
    with store.transaction() as db:
        db.executemany(
            "INSERT OR IGNORE INTO jobs (id, task, engine, state, attempt, base, enqueued_at, pid, identity)"
            " VALUES (?, ?, 'thread', 'queued', 0, 0, ?, ?, ?)",
            queued,
        )


def finish(
    store: Database,
    job: JobSpec,
    attempt: int,
    outcome: Outcome,
    *,
    result: Result | None = None,
    progress: Progress | None = None,
    log: str = "",
) -> bool:
    """Record how the attempt with the number ``attempt`` of ``job`` ended.

    Args:
        store: Where it is recorded.
        job: The job.
        attempt: The number of the attempt, from 1.
        outcome: What follows for the job.
        result: What the task returned, if the job is done.
        progress: The progress that the task reported last.
        log: What the attempt printed and logged.

    Returns:
        Whether the attempt was recorded as running until now. If not, nothing is recorded: to settle a job twice is
        harmless.
    """
    now = clock.now()
    after, failure = _state_of(outcome)
    columns: dict[str, Any] = {}
    if isinstance(outcome, RetryAt):
        columns["run_at"] = outcome.time
    if result is not None:
        columns.update(result=result.data, result_error=result.error)
    if progress is not None:
        columns["progress"] = rows.progress_text(progress)
    detail: dict[str, Any] = {}
    ending = "done"
    if failure is not None:
        ending = failure.ending
        columns.update(error_type=failure.type, error_message=failure.message, ending=ending)
        detail = {"type": failure.type, "message": failure.message, "traceback": failure.traceback}
    gone = {"pid": None, "identity": None}
    with store.transaction() as db:
        if after is State.RETRYING:
            # A job without a file belongs to its process until it is finished, also between two attempts.
            own = gone if job.has_file else {}
            ended = rows.end_attempt(db, job.id, attempt, after, now, {**columns, **own}, unless_cancelled=True)
            after = State.CANCELLED
        else:
            ended = False
        if not ended and not rows.end_attempt(db, job.id, attempt, after, now, {**columns, **gone}):
            return False
        rows.add_event(db, job.id, ending, now, attempt, detail=detail, log=log, ends_attempt=True)
    return True


def refuse(store: Database, job: JobSpec, failure: Failure, *, file: str | None) -> None:
    """Record a job as dead without an attempt, because no task can run it.

    Args:
        store: Where it is recorded.
        job: The job.
        failure: Why it cannot run.
        file: The name of its file; ``None``: it has none.
    """
    now = clock.now()
    with store.transaction() as db:
        row = rows.find(db, job.id)
        columns: dict[str, Any] = {"file": file, "ending": failure.ending}
        columns.update(error_type=failure.type, error_message=failure.message)
        if row is None:
            columns.update(task=job.task, engine=job.engine, queue=job.queue)
            columns.update(enqueued_at=job.enqueued_at, run_at=job.run_at)
            rows.insert(db, job.id, State.DEAD, now, columns)
        elif rows.may_move(row, State.DEAD):
            rows.move(db, job.id, State(row["state"]), State.DEAD, now, columns)
        else:
            return
        rows.add_event(db, job.id, "refused", now, detail={"message": failure.message})


def cancel(
    store: Database,
    status: Status,
    reason: str,
    *,
    file: str | None,
    log: str = "",
    progress: Progress | None = None,
) -> bool:
    """Record a job that does not run as cancelled.

    Args:
        store: Where it is recorded.
        status: What is known of the job.
        reason: Why, for people.
        file: The name of the job's file, which the caller has locked; ``None``: it has none.
        log: What an attempt printed and logged whose process is gone.
        progress: The progress that this attempt reported last.

    Returns:
        Whether it was recorded: not if the job runs, or is finished.
    """
    now = clock.now()
    with store.transaction() as db:
        row = rows.find(db, status.id)
        interrupted_attempt = None
        columns: dict[str, Any] = {"cancel": 1, "error_message": reason, "ending": "cancelled"}
        if row is None:
            columns.update(task=status.task or "?", engine=status.engine, queue=status.queue)
            columns.update(enqueued_at=status.enqueued_at, run_at=status.run_at)
            rows.insert(db, status.id, State.CANCELLED, now, columns)
        elif rows.may_move(row, State.CANCELLED) and not (row["file"] == file and rows.is_running(row)):
            interrupted_attempt = row["attempt"] if row["state"] == State.RUNNING else None
            columns.update(pid=None, identity=None)
            if progress is not None:
                columns["progress"] = rows.progress_text(progress)
            rows.move(db, status.id, State(row["state"]), State.CANCELLED, now, columns)
        else:
            return False
        rows.add_event(db, status.id, "cancelled", now, interrupted_attempt, detail={"message": reason}, log=log)
    return True


def ask_to_stop(store: Database, id: str) -> bool:
    """Record that somebody asked the running job ``id`` to stop. Returns whether it runs."""
    with store.transaction() as db:
        row = rows.find(db, id)
        if row is None or not rows.is_running(row):
            return False
        rows.update(db, id, {"cancel": 1})
        rows.add_event(db, id, "cancel asked", clock.now(), row["attempt"])
    return True


def cancel_running(
    store: Database, id: str, *, kill: Callable[[int], None], read_leftovers: Callable[[], tuple[Progress | None, str]]
) -> bool:
    """Kill the process that runs the job ``id``, and record the job as cancelled.

    No other process can settle the job, or claim another one, meanwhile: the killed process is the one that runs this
    very job.

    Args:
        store: Where it is recorded.
        id: The job.
        kill: Called with the pid; returns once the process is dead.
        read_leftovers: Returns the progress and the log that the attempt leaves behind. Called after ``kill``.

    Returns:
        Whether the job ran.
    """
    with store.transaction() as db:
        row = rows.find(db, id)
        if row is None or not rows.is_running(row):
            return False
        kill(row["pid"])
        now, attempt = clock.now(), row["attempt"]
        reason = f"its process {row['pid']} was killed in attempt {attempt}, to cancel it"
        progress, log = read_leftovers()
        columns: dict[str, Any] = {"cancel": 1, "pid": None, "identity": None}
        columns.update(ending="cancelled", error_type=None, error_message=reason)
        if progress is not None:
            columns["progress"] = rows.progress_text(progress)
        rows.move(db, id, State.RUNNING, State.CANCELLED, now, columns)
        rows.add_event(db, id, "killed", now, attempt)
        rows.add_event(db, id, "cancelled", now, attempt, now - row["started_at"], {"message": reason}, log)
    return True


def record_event(store: Database, id: str, kind: str) -> None:
    """Add an event to the history of the job ``id``, if the job is recorded: what a person did, in a word or two."""
    with store.transaction() as db:
        if rows.find(db, id) is not None:
            rows.add_event(db, id, kind, clock.now())


def requeue(store: Database, id: str, *, still_there: Callable[[], bool]) -> None:
    """Record the dead job ``id`` as queued, with a new count of attempts.

    To be called before its file is moved back to the waiting ones: a process may be killed between the two, and a file
    that is back may be claimed at once.

    Args:
        store: Where it is recorded.
        id: The job. If it is not recorded, nothing happens.
        still_there: Whether the job's file still is among the dead.
    """
    now = clock.now()
    with store.transaction() as db:
        row = rows.find(db, id)
        if row is None or not still_there():
            return
        columns = {"base": row["attempt"], "max_attempts": None, "run_at": None, "cancel": 0}
        columns.update(pid=None, identity=None)
        # From DEAD, whatever state is recorded: the file among the dead tells that it is, and the store may have been
        # unavailable when the job died.
        rows.move(db, id, State.DEAD, State.QUEUED, now, columns)
        rows.add_event(db, id, "retried", now)


def _state_of(outcome: Outcome) -> tuple[State, Failure | None]:
    match outcome:
        case Done():
            return State.DONE, None
        case RetryAt(_, failure):
            return State.RETRYING, failure
        case Dead(failure):
            return State.DEAD, failure
        case Cancelled(failure):
            return State.CANCELLED, failure
