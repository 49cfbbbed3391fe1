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
    Bill,
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
from spoolkit.store import members, rows, totals
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
    jobs, owner = list(jobs), (os.getpid(), process.own())
    queued = [
        (job.id, rows.encodable(job.task), job.enqueued_at, job.expires_at, rows.options_of(job), *owner)
        for job in jobs
    ]
    with store.transaction() as db:
        db.executemany(
            "INSERT OR IGNORE INTO jobs"
            " (id, task, engine, state, attempt, base, enqueued_at, expires_at, options, pid, identity, has_events)"
            " VALUES (?, ?, 'thread', 'queued', 0, 0, ?, ?, ?, ?, ?, 0)",
            queued,
        )
        for job in jobs:
            rows.add_tags(db, job)


def finish(
    store: Database,
    job: JobSpec,
    attempt: int,
    outcome: Outcome,
    *,
    result: Result | None = None,
    progress: Progress | None = None,
    log: str = "",
    bill: Bill = Bill(),  # noqa: B008 - a constant
) -> State | None:
    """Record how the attempt with the number ``attempt`` of ``job`` ended.

    Args:
        store: Where it is recorded.
        job: The job.
        attempt: The number of the attempt, from 1.
        outcome: What follows for the job.
        result: What the task returned, if the job is done.
        progress: The progress that the task reported last.
        log: What the attempt printed and logged.
        bill: What the attempt took.

    Returns:
        The state in which the job is now. ``None``: the attempt was not recorded as running until now, and nothing is
        recorded: to settle a job twice is harmless.
    """
    now = clock.now()
    shown = None if progress is None else rows.encodable(rows.progress_text(progress))
    if isinstance(outcome, Done) and not log and job.batch is None:
        data, error = (None, None) if result is None else (result.data, result.error and rows.encodable(result.error))
        if store.write_after_task(_FIRST_IS_DONE, (now, data, error, shown, *bill, job.id, attempt)):
            return State.DONE
    with store.transaction() as db:
        row = rows.find(db, job.id)
        if row is None or row["state"] != State.RUNNING or row["attempt"] != attempt:
            return None
        after, failure = _state_of(outcome)
        if after is State.RETRYING and row["cancel"]:
            after = State.CANCELLED
        columns: dict[str, Any] = {}
        if isinstance(outcome, RetryAt):
            columns["run_at"] = outcome.time
        if after is not State.RETRYING or job.has_file:
            # A job without a file belongs to its process until it is finished, also between two attempts.
            columns.update(pid=None, identity=None)
        if result is not None:
            columns.update(result=result.data, result_error=result.error)
        if shown is not None:
            columns["progress"] = shown
        columns.update(rows.added(row, bill))
        ending, detail = "done", dict[str, Any]()
        if failure is not None:
            ending = failure.ending
            columns.update(error_type=failure.type, error_message=failure.message, ending=ending)
            detail = {"type": failure.type, "message": failure.message, "traceback": failure.traceback}
        event = rows.event(now, ending, attempt, now - row["started_at"], {**detail, **bill._asdict()}, log)
        rows.move(db, row, after, now, columns, event, may_be_member=job.batch is not None)
    return after


rows.check_move(State.RUNNING, State.DONE)  # which is what this statement does
# The row keeps the process: the events are derived from it. It finds nothing if events are in the table already.
_FIRST_IS_DONE = (
    "UPDATE jobs SET state = 'done', finished_at = ?, result = ?, result_error = ?, progress = ?, cpu = ?, memory = ?"
    " WHERE id = ? AND attempt = ? AND state = 'running' AND NOT has_events"
)


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
        event = rows.event(now, "refused", detail={"message": failure.message})
        if row is None:
            columns.update(task=job.task, engine=job.engine, queue=job.queue)
            columns.update(enqueued_at=job.enqueued_at, run_at=job.run_at, expires_at=job.expires_at)
            columns.update(options=rows.options_of(job))
            rows.insert(db, job.id, State.DEAD, now, columns, event)
            rows.add_tags(db, job)
        elif rows.may_move(row, State.DEAD):
            rows.move(db, row, State.DEAD, now, columns, event)


def cancel(
    store: Database,
    status: Status,
    reason: str,
    *,
    file: str | None,
    log: str = "",
    progress: Progress | None = None,
    by: str | None = None,
) -> bool:
    """Record a job that does not run as cancelled.

    Args:
        store: Where it is recorded.
        status: What is known of the job.
        reason: Why, for people.
        file: The name of the job's file, which the caller has locked; ``None``: it has none.
        log: What an attempt printed and logged whose process is gone.
        progress: The progress that this attempt reported last.
        by: Who cancels it; ``None``: not known.

    Returns:
        Whether it was recorded: not if the job runs, or is finished.
    """
    now = clock.now()
    with store.transaction() as db:
        row = rows.find(db, status.id)
        columns: dict[str, Any] = {"cancel": 1, "error_message": reason, "ending": "cancelled"}
        detail = {"message": reason, "by": by}
        if row is None:
            columns.update(task=status.task or "?", engine=status.engine, queue=status.queue)
            columns.update(enqueued_at=status.enqueued_at, run_at=status.run_at, expires_at=status.expires_at)
            columns.update(options=rows.options_of(status))
            event = rows.event(now, "cancelled", detail=detail, log=log)
            rows.insert(db, status.id, State.CANCELLED, now, columns, event)
            rows.add_tags(db, status)
        elif rows.may_move(row, State.CANCELLED) and not (row["file"] == file and rows.is_running(row)):
            interrupted_attempt = row["attempt"] if row["state"] == State.RUNNING else None
            columns.update(pid=None, identity=None)
            if progress is not None:
                columns["progress"] = rows.progress_text(progress)
            event = rows.event(now, "cancelled", interrupted_attempt, detail=detail, log=log)
            rows.move(db, row, State.CANCELLED, now, columns, event)
        else:
            return False
    return True


def ask_to_stop(store: Database, id: str, *, by: str | None = None) -> bool:
    """Record that somebody asked the running job ``id`` to stop. Returns whether it runs.

    Args:
        store: Where it is recorded.
        id: The job.
        by: Who asks; ``None``: not known.
    """
    with store.transaction() as db:
        row = rows.find(db, id)
        if row is None or not rows.is_running(row):
            return False
        rows.update(db, row, {"cancel": 1}, rows.event(clock.now(), "cancel asked", row["attempt"], detail={"by": by}))
    return True


def cancel_running(
    store: Database,
    id: str,
    *,
    kill: Callable[[int], None],
    read_leftovers: Callable[[], tuple[Progress | None, str]],
    by: str | None = None,
) -> bool:
    """Kill the process that runs the job ``id``, and record the job as cancelled.

    No other process can settle the job, or claim another one, meanwhile: the killed process is the one that runs this
    very job.

    Args:
        store: Where it is recorded.
        id: The job.
        kill: Called with the pid; returns once the process is dead.
        read_leftovers: Returns the progress and the log that the attempt leaves behind. Called after ``kill``.
        by: Who cancels it; ``None``: not known.

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
        killed = rows.event(now, "killed", attempt, detail={"by": by})
        cancelled = rows.event(now, "cancelled", attempt, now - row["started_at"], {"message": reason}, log)
        rows.move(db, row, State.CANCELLED, now, columns, killed, cancelled)
    return True


def record_event(
    store: Database,
    id: str,
    kind: str,
    *,
    by: str | None = None,
    job: str | None = None,
    waiting: Status | None = None,
) -> None:
    """Add an event to the history of the job ``id``: what a person did, in a word or two.

    Args:
        store: Where it is recorded.
        id: The job. If it is not recorded, nothing happens, but for ``waiting``.
        kind: What was done.
        by: Who did it; ``None``: not known.
        job: The id of the other job that it is about.
        waiting: What is known of the job, if it waits and may not be recorded yet: then it is from now on.
    """
    now = clock.now()
    event = rows.event(now, kind, detail={"by": by, "job": job})
    with store.transaction() as db:
        if (row := rows.find(db, id)) is not None:
            rows.update(db, row, {}, event)
        elif waiting is not None:
            columns: dict[str, Any] = {"task": waiting.task or "?", "engine": waiting.engine, "queue": waiting.queue}
            columns.update(enqueued_at=waiting.enqueued_at, run_at=waiting.run_at, expires_at=waiting.expires_at)
            rows.insert(db, id, State.QUEUED, now, {**columns, "options": rows.options_of(waiting)}, event)
            rows.add_tags(db, waiting)


def record_replaced(store: Database, job: JobSpec) -> None:
    """Record that a call has replaced a job that waits, with its options, if the job is recorded: it was retried."""
    with store.transaction() as db:
        if (row := rows.find(db, job.id)) is not None and row["state"] in (State.QUEUED, State.DEAD):
            columns = {"expires_at": job.expires_at, "options": rows.options_of(job)}
            rows.remove_tags(db, row)
            rows.add_tags(db, job)
            rows.update(db, row, columns, rows.event(clock.now(), "replaced"))


def requeue(store: Database, id: str, *, still_there: Callable[[], bool], by: str | None = None) -> None:
    """Record the dead job ``id`` as queued, with a new count of attempts.

    To be called before its file is moved back to the waiting ones: a process may be killed between the two, and a file
    that is back may be claimed at once.

    Args:
        store: Where it is recorded.
        id: The job. If it is not recorded, nothing happens.
        still_there: Whether the job's file still is among the dead.
        by: Who has it run again; ``None``: not known.
    """
    now = clock.now()
    with store.transaction() as db:
        row = rows.find(db, id)
        if not still_there():
            return
        if row is None:
            members.reopen(db, id)
            return
        columns = {"base": row["attempt"], "max_attempts": None, "run_at": None, "cancel": 0}
        columns.update(pid=None, identity=None)
        # From DEAD, whatever state is recorded: the file among the dead tells that it is, and the store may have been
        # unavailable when the job died.
        totals.keep_done(db, id)
        rows.move(db, row, State.QUEUED, now, columns, rows.event(now, "retried", detail={"by": by}), before=State.DEAD)


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
