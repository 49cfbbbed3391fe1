"""May an attempt of a job start now?"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from spoolkit.job import Cancelled, Dead, Done, Failure, JobSpec, Outcome, RetryAt, State
from spoolkit.store import holders, rates, rows
from spoolkit.store.database import Database
from spoolkit.store.holders import Room
from spoolkit.store.rates import Slot
from spoolkit.system import clock, process

ARGUMENTS_LIMIT = 4096
"""Bytes of a job's arguments that are kept with its row, to be shown once the file is gone."""


@dataclass(frozen=True)
class Granted:
    """The attempt is counted, and may start."""

    #: The number of the attempt, from 1.
    attempt: int
    #: The same since the count was last reset: a job that is requeued has all its attempts again.
    attempt_since_reset: int
    #: Whether the store has the attempt; it does not if it could not be written.
    recorded: bool = True


@dataclass(frozen=True)
class InUse:
    """Another process runs the job, or has just settled its file."""

    #: The other file by which the job runs, if the file of this claim is a copy of that one.
    other_file: str | None = None


@dataclass(frozen=True)
class AlreadySettled:
    """The job's end is recorded, but not done to its file: by this claim, or by a process that died between the two."""

    #: What is recorded, and must be done to the file now.
    outcome: Outcome


@dataclass(frozen=True)
class PreviousCrashed:
    """The process of the last attempt is gone, and the end of that attempt is not recorded."""

    #: The number of the last attempt, from 1.
    attempt: int
    #: The same since the count was last reset.
    attempt_since_reset: int
    #: The process that ran it.
    pid: int
    #: When it started, in unix seconds (UTC).
    started_at: float
    #: Whether somebody had asked the job to stop.
    cancel_asked: bool
    #: What tells the process from a later one with the same pid: see :func:`spoolkit.system.process.identity`.
    identity: bytes = field(default=b"", compare=False)


@dataclass(frozen=True)
class Full:
    """As many other jobs run as the limit of the job allows: no attempt is counted."""


@dataclass(frozen=True)
class NotYet:
    """The rate of the job allows its next attempt at another time, which is reserved for it: no attempt is counted."""

    #: Unix time in seconds (UTC).
    time: float


_NONE_LEFT = AlreadySettled(Dead(Failure("no attempt is left")))
"""The task allows fewer attempts than when it was scheduled, or the last one ended with its process, unrecorded."""

Claim = Granted | InUse | AlreadySettled | PreviousCrashed | Full | NotYet


def claim(
    store: Database,
    job: JobSpec,
    *,
    file: str | None,
    still_there: Callable[[], bool],
    max_attempts: int,
    attempts_in_filename: int = 0,
    arguments: bytes | None = None,
    file_exists: Callable[[str], bool] = lambda name: False,
    instead: Cancelled | RetryAt | None = None,
    room: Room | None = None,
) -> Claim:
    """Count an attempt of ``job`` before it starts, or say why it must not start.

    Args:
        store: Where the attempt is recorded.
        job: The job, as its file has it.
        file: The name of the job's file; ``None``: it has none.
        still_there: Whether the file still has that name. It is called while no other process can move the job.
        max_attempts: How many attempts the job may have since the count was last reset.
        attempts_in_filename: How many of these were counted in the file's name, while the store could not be written.
        arguments: The job's arguments in the codec's bytes, to be kept if they are small.
        file_exists: Whether the job has another file of the given name.
        instead: What becomes of the job instead of an attempt, unless the record says that it runs or is over. That it
            is cancelled is recorded here; that it runs later is written nowhere but in its file's time.
        room: What the limit and the rate of the job allow; ``None``: it has neither.

    Raises:
        StoreUnavailableError: The attempt cannot be recorded.
    """
    now, (pid, identity), attempt = clock.now(), process.this(), attempts_in_filename + 1
    kept = arguments if arguments and len(arguments) <= ARGUMENTS_LIMIT else None
    spec = (job.id, job.task, job.engine, job.queue, job.enqueued_at, job.run_at, job.expires_at, rows.options_of(job))
    first = (*spec, attempt, max_attempts, now, file, pid, identity, kept)
    if job.tags is not None:
        # Before the row, in a transaction of its own: a tag without a row is not found, and is written again.
        with store.transaction() as db:
            rows.add_tags(db, job)
            # The record of a member that the death of another one has cancelled was made without its file.
            db.execute("UPDATE jobs SET options = ? WHERE id = ? AND attempt = 0", (rows.options_of(job), job.id))
    # Without a question before: almost every attempt is the first one of a job that has no row. Otherwise, or if the
    # file no longer exists, nothing is inserted.
    if attempt <= max_attempts and instead is None and (room is None or room.pace is None):
        sql, values = (_FIRST, first) if room is None else (_FIRST_OF_KEY, (*first, room.key, room.key, room.number))
        try:
            begun = store.write_before_task(sql, values, still_there)
        except UnicodeEncodeError:
            begun = store.write_before_task(sql, rows.encoded(values), still_there)
        if begun:
            return Granted(attempt, attempt)
    columns: dict[str, Any]
    with store.transaction() as db:
        if not still_there():
            return InUse()
        row = rows.find(db, job.id)
        if row is not None and (answer := _refusal(row, file, file_exists)) is not None:
            return answer
        if instead is not None:
            if isinstance(instead, Cancelled):
                _cancel(db, job, row, instead.failure, now, file, kept)
            return AlreadySettled(instead)
        if row is None:
            if attempt > max_attempts:
                return _NONE_LEFT
            if room is None:
                return InUse()  # it had a row, or no file, a moment ago
            columns = dict(zip(_COLUMNS, first, strict=True)) | {"limit_key": room.key}
            waits, slot = _must_wait(db, room, job.id, None, now)
            if waits is not None:
                columns.update(attempt=0, max_attempts=None, started_at=None, **slot)
                if file is not None:  # otherwise it belongs to its process, also while it waits
                    columns.update(pid=None, identity=None)
                rows.insert(db, job.id, State.QUEUED, now, columns)
                return waits
            rows.insert(db, job.id, State.RUNNING, now, columns)
            return Granted(attempt, attempt)
        attempts, attempts_before_reset, cancel_asked = row["attempt"], row["base"], row["cancel"]
        before, events = _before(row, now)
        if before in (State.DEAD, State.QUEUED):
            # The file was moved back to be run again: the count is reset.
            attempts_before_reset, cancel_asked = attempts, 0
        attempt = max(attempts, attempts_before_reset + attempts_in_filename) + 1
        if attempt - attempts_before_reset > max_attempts:
            return _NONE_LEFT
        key, waits, slot = None, None, {}
        if room is not None:
            key, (waits, slot) = room.key, _must_wait(db, room, job.id, row, now)
        if waits is not None:
            if changed := {name: value for name, value in {**slot, "limit_key": key}.items() if value != row[name]}:
                rows.update(db, row, changed)
            return waits
        if attempts or row["has_events"]:  # otherwise the row tells it: see rows.derived_events()
            events.append(rows.started(now, attempt, pid, _due(db, row)))
        # A job that has had an attempt stays with the name that its task had then: see totals.py.
        task = row["task"] if attempts else job.task
        columns = {"task": task, "run_at": job.run_at, "started_at": now, "file": file, "limit_key": key}
        columns.update(slot)
        columns.update(_current(job, arguments, kept))
        columns.update(pid=pid, identity=identity, cancel=cancel_asked)
        columns.update(attempt=attempt, base=attempts_before_reset, max_attempts=attempts_before_reset + max_attempts)
        columns.update(error_type=None, error_message=None, ending=None, progress=None)
        is_member = job.batch is not None
        rows.move(db, row, State.RUNNING, now, columns, *events, before=before, may_be_member=is_member)
    return Granted(attempt, attempt - attempts_before_reset)


def _due(db: sqlite3.Connection, row: sqlite3.Row) -> float | None:
    """When another attempt of a job was due; ``None`` if that is not known."""
    if row["state"] == State.RETRYING:
        return row["run_at"]  # type: ignore[no-any-return]
    if row["state"] != State.QUEUED:
        return None  # its file was moved back by hand
    found = db.execute("SELECT max(time) FROM events WHERE job = ? AND kind = 'retried'", (row["id"],))
    return found.fetchone()[0] or rows.first_due(row)


def _must_wait(
    db: sqlite3.Connection, room: Room, id: str, row: sqlite3.Row | None, now: float
) -> tuple[Full | NotYet | None, dict[str, Any]]:
    """For what a job has to wait, ``None`` if it may start; and the columns with its slot."""
    if not holders.has_room(db, room, id):
        return Full(), {}
    if room.pace is None:
        return None, {}
    slot = None if row is None or row["slot"] is None else Slot(row["slot"], bool(row["slot_is_counted"]))
    if (slot := rates.take(db, room.pace, slot, now)) is None:
        return None, {"slot": None, "slot_is_counted": None}
    return NotYet(slot.time), {"slot": slot.time, "slot_is_counted": int(slot.is_counted)}


def _current(job: JobSpec, arguments: bytes | None, kept: bytes | None) -> dict[str, Any]:
    """The columns with what a later call of a unique task may have changed since the row was made."""
    columns: dict[str, Any] = {"expires_at": job.expires_at, "options": rows.options_of(job)}
    return columns if arguments is None else {**columns, "arguments": kept}


_COLUMNS = (
    *("id", "task", "engine", "queue", "enqueued_at", "run_at", "expires_at", "options"),
    *("attempt", "max_attempts", "started_at", "file", "pid", "identity", "arguments"),
)
"""What is known of a job when its first attempt starts."""

_FIRST = (
    f"INSERT INTO jobs ({', '.join(_COLUMNS)}, state, base, has_events)"
    f" SELECT {', '.join('?' * len(_COLUMNS))}, 'running', 0, 0"
    " WHERE still_there() ON CONFLICT (id) DO NOTHING"
)

# Rows of processes that are gone count here: whether they are alive is asked if there is no room otherwise.
_FIRST_OF_KEY = (
    f"INSERT INTO jobs ({', '.join(_COLUMNS)}, limit_key, state, base, has_events)"  # noqa: S608 - names of ours
    f" SELECT {', '.join('?' * len(_COLUMNS))}, ?, 'running', 0, 0"
    " WHERE (SELECT count(*) FROM jobs WHERE limit_key = ? AND state = 'running') < ? AND still_there()"
    " ON CONFLICT (id) DO NOTHING"
)


def _before(row: sqlite3.Row, now: float) -> tuple[State, list[rows.EventRow]]:
    """The state in which a job is that may start now, and what has to be recorded first."""
    state = State(row["state"])
    if state is not State.RUNNING:
        return state, []
    # The file was settled, but the store could not be written then: the result is not known any more.
    detail = {"message": "how it ended was not recorded"}
    return State.RETRYING, [rows.event(now, "failed", row["attempt"], detail=detail)]


def _cancel(
    db: sqlite3.Connection,
    job: JobSpec,
    row: sqlite3.Row | None,
    failure: Failure,
    now: float,
    file: str | None,
    arguments: bytes | None,
) -> None:
    """Record a job as cancelled instead of an attempt."""
    columns: dict[str, Any] = {"file": file, "ending": failure.ending}
    columns.update(error_type=failure.type, error_message=failure.message)
    ended = rows.event(now, failure.ending, detail={"message": failure.message})
    if row is None:
        columns.update(task=job.task, engine=job.engine, queue=job.queue, enqueued_at=job.enqueued_at)
        columns.update(run_at=job.run_at, expires_at=job.expires_at, options=rows.options_of(job))
        columns.update(arguments=arguments)
        rows.insert(db, job.id, State.CANCELLED, now, columns, ended)
        return
    before, events = _before(row, now)
    if before is State.LOST:
        return  # its file was found again, but nothing is left to run: it stays lost
    columns.update(pid=None, identity=None)
    rows.move(db, row, State.CANCELLED, now, columns, *events, ended, before=before)


def _refusal(row: sqlite3.Row, file: str | None, file_exists: Callable[[str], bool]) -> Claim | None:
    """Return why the job of ``row`` must not start now; ``None`` if it may."""
    state = State(row["state"])
    # What is recorded of a file is recorded of the name under which it was claimed: once settled, it has another name.
    same = file is not None and row["file"] == file
    if state is State.RUNNING and same:
        if process.is_alive(row["pid"], row["identity"]) and row["pid"] != os.getpid():
            return InUse()
        return _crashed(row)
    if (
        rows.is_running(row)
        and row["pid"] != os.getpid()
        and None not in (file, row["file"])
        and file_exists(row["file"])
    ):
        # A settled file would have lost that name, even if the store could not be written: this file is a copy of it.
        return InUse(row["file"])
    if state is State.RUNNING and row["cancel"]:
        return _crashed(row)  # its file was renamed since, as `run-now` does; nobody wants another attempt
    failure = Failure(row["error_message"] or "", row["error_type"])
    if state is State.RETRYING and same and row["ending"] != "interrupted":
        return AlreadySettled(RetryAt(row["run_at"], failure))
    if state is State.DONE:
        return AlreadySettled(Done())
    if state is State.CANCELLED or (state is State.LOST and file is None):  # a lost job that has a file is to be run
        return AlreadySettled(Cancelled(failure))
    # The file of an interrupted job was left under its name. That of a dead job is moved away before the job is
    # recorded as dead: if it is here, somebody has moved it back.
    return None


def _crashed(row: sqlite3.Row) -> PreviousCrashed:
    return PreviousCrashed(
        attempt=row["attempt"],
        attempt_since_reset=row["attempt"] - row["base"],
        pid=row["pid"],
        started_at=row["started_at"],
        cancel_asked=bool(row["cancel"]),
        identity=row["identity"],
    )
