"""What is recorded of jobs whose attempts run in workers, perhaps on other machines?

No process of this machine runs them: such a row has no pid, and nothing here asks whether one is alive. A worker asks
before it starts an attempt, and the one that is allowed to is recorded, in the column ``identity``.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from spoolkit.job import Cancelled, Dead, Done, Failure, JobSpec, Progress, RetryAt, State
from spoolkit.store import rows
from spoolkit.store.claims import ARGUMENTS_LIMIT, AlreadySettled
from spoolkit.store.database import Database
from spoolkit.system import clock


@dataclass(frozen=True)
class Next:
    """The attempt that is to be published."""

    #: Its number, from 1.
    attempt: int
    #: The same since the count was last reset.
    attempt_since_reset: int
    #: When a retry is due, unix time in seconds (UTC); ``None``: it is no retry.
    due: float | None = None


@dataclass(frozen=True)
class Started:
    """A worker has been allowed to start an attempt already."""


def next_attempt(store: Database, job: JobSpec, max_attempts: int, file: str) -> Next | Started | AlreadySettled:
    """Say which attempt of ``job`` is published next, or why none may be. Nothing is recorded.

    Args:
        store: Where the job is recorded.
        job: The job.
        max_attempts: How many attempts the job may have since the count was last reset.
        file: The name of its file.

    Raises:
        StoreUnavailableError: The store cannot be read.
    """
    found = store.read("SELECT * FROM jobs WHERE id = ?", (job.id,))
    if not found:
        return Next(1, 1)
    row = found[0]
    state, base = State(row["state"]), row["base"]
    failure = Failure(row["error_message"] or "", row["error_type"])
    match state:
        case State.RUNNING:
            return Started()
        case State.DONE:
            return AlreadySettled(Done())
        case State.CANCELLED:
            return AlreadySettled(Cancelled(failure))
        case State.RETRYING if row["file"] == file:
            return AlreadySettled(RetryAt(row["run_at"], failure))
        case State.DEAD | State.QUEUED:
            base = row["attempt"]  # the file was moved back to be run again: the count is reset
    attempt = row["attempt"] + 1
    if attempt - base > max_attempts:
        return AlreadySettled(Dead(Failure("no attempt is left")))
    return Next(attempt, attempt - base, row["run_at"] if state is State.RETRYING else None)


def start(
    store: Database,
    job: JobSpec,
    attempt: int,
    *,
    attempt_since_reset: int,
    max_attempts: int,
    run: str,
    worker: str,
    file: str,
    arguments: bytes,
) -> bool:
    """Allow a worker to start an attempt, and record it, unless another one has been allowed to.

    Args:
        store: Where it is recorded.
        job: The job.
        attempt: The number of the attempt, from 1.
        attempt_since_reset: The same since the count was last reset.
        max_attempts: How many attempts the job may have since then.
        run: Who asks. The same one is allowed again what it was allowed before: it may not have heard the answer.
        worker: The worker, for people.
        file: The name of the job's file.
        arguments: The job's arguments in the codec's bytes, kept if they are small.

    Returns:
        Whether ``run`` may start the attempt, or go on with it.

    Raises:
        StoreUnavailableError: It cannot be recorded.
    """
    now, base = clock.now(), attempt - attempt_since_reset
    event = rows.event(now, "started", attempt, detail={"worker": worker})
    columns: dict[str, Any] = {"task": job.task, "started_at": now, "file": file, "run_at": job.run_at}
    columns.update(attempt=attempt, base=base, max_attempts=base + max_attempts, pid=None, identity=run.encode())
    with store.transaction() as db:
        row = rows.find(db, job.id)
        if row is None:
            columns.update(engine=job.engine, queue=job.queue, enqueued_at=job.enqueued_at)
            columns.update(expires_at=job.expires_at, options=rows.options_of(job))
            columns.update(arguments=arguments if len(arguments) <= ARGUMENTS_LIMIT else None)
            rows.insert(db, job.id, State.RUNNING, now, columns, event)
            rows.add_tags(db, job)
            return True
        if row["attempt"] >= attempt:
            return _is_of(row, attempt, run)
        if row["state"] == State.RUNNING or not rows.may_move(row, State.RUNNING):
            return False
        columns.update(error_type=None, error_message=None, ending=None, progress=None)
        rows.move(db, row, State.RUNNING, now, columns, event)
    return True


def take_back(store: Database, id: str, attempt: int, run: str) -> bool:
    """Record that ``run`` does not start the attempt that it was allowed to: it has had no answer.

    The next one that asks for the same attempt may start it.

    Returns:
        Whether it was allowed to start it, and nobody else was.

    Raises:
        StoreUnavailableError: It cannot be recorded.
    """
    now = clock.now()
    with store.transaction() as db:
        row = rows.find(db, id)
        if row is None or not _is_of(row, attempt, run):
            return False
        columns: dict[str, Any] = {"attempt": attempt - 1, "identity": None, "run_at": now}
        event = rows.event(now, "returned", detail={"message": "its worker had no answer in time"})
        rows.move(db, row, State.CANCELLED if row["cancel"] else State.RETRYING, now, columns, event)
    return True


def heard(store: Database, id: str, attempt: int, run: str, progress: Progress | None) -> bool:
    """Record how far a running attempt is.

    Returns:
        Whether it is to go on: not if it was asked to stop, or if it counts as lost.

    Raises:
        StoreUnavailableError: It cannot be read or recorded.
    """
    text = None if progress is None else rows.encodable(rows.progress_text(progress))
    with store.transaction() as db:
        if (row := rows.find(db, id)) is None:
            return True  # the store is a new one
        if not _is_of(row, attempt, run):
            return False
        if text is not None and text != row["progress"]:
            rows.update(db, row, {"progress": text})
    return not row["cancel"]


def _is_of(row: sqlite3.Row, attempt: int, run: str) -> bool:
    return bool(row["state"] == State.RUNNING and row["attempt"] == attempt and row["identity"] == run.encode())


def running(store: Database) -> dict[str, int]:
    """Return the attempts that run in workers, as far as is recorded: their numbers by the ids of the jobs.

    Raises:
        StoreUnavailableError: The store cannot be read.
    """
    found = store.read("SELECT id, attempt FROM jobs WHERE state = 'running' AND engine = 'celery'")
    return {row["id"]: row["attempt"] for row in found}
