"""How one job's row and its events are written, and which moves between states are allowed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from spoolkit.job import FINISHED, MOVES, Bill, JobSpec, Progress, State, Status, is_plain
from spoolkit.store import members, totals
from spoolkit.system import process


class ForbiddenMoveError(Exception):
    """A job was to be moved into a state that :data:`~spoolkit.job.MOVES` does not allow."""


class EventRow(NamedTuple):
    """A row of the table ``events``, without the job and the number."""

    #: When, in unix seconds (UTC).
    time: float
    #: What happened: ``started``, one of :data:`~spoolkit.store.queries.ENDINGS`, or what a person did.
    kind: str
    #: The attempt that the event belongs to.
    attempt: int | None
    #: How long the attempt took, if the event ends it.
    seconds: float | None
    #: JSON: the pid and how long the attempt waited, or type, message and traceback, and what the attempt took.
    detail: str | None
    #: What the attempt printed and logged.
    log: str | None


def event(
    time: float,
    kind: str,
    attempt: int | None = None,
    seconds: float | None = None,
    detail: dict[str, Any] | None = None,
    log: str = "",
) -> EventRow:
    """Return an event: see :class:`EventRow`. Of ``detail``, values that are ``None`` are left out."""
    known = {key: value for key, value in (detail or {}).items() if value is not None}
    text = encodable(json.dumps(known)) if known else None
    return EventRow(time, kind, attempt, seconds, text, encodable(log) or None)


def derived_events(row: sqlite3.Row) -> list[EventRow]:
    """Return the events of a job that has none in the table, because ``row``, which is the job's, tells them.

    They are that its first attempt has started, and that this attempt completed the job. Almost every job has no other.
    """
    if row["has_events"] or not row["attempt"]:
        return []
    began, attempt = row["started_at"], row["attempt"]
    events = [started(began, attempt, row["pid"], first_due(row))]
    if row["state"] == State.DONE:
        ended, detail = row["finished_at"], {"cpu": row["cpu"], "memory": row["memory"]}
        events.append(event(ended, "done", attempt, ended - began, detail))
    return events


def first_due(row: sqlite3.Row) -> float | None:
    """Return when the first attempt of a job was due, in unix seconds; ``None`` if that is not known."""
    return max(row["run_at"] or 0.0, row["enqueued_at"] or 0.0) or None


def started(now: float, attempt: int, pid: int, due: float | None) -> EventRow:
    """Return the event that an attempt starts ``now``, which was due at ``due`` (unix seconds), if that is known."""
    # Somebody may have had it run before it was due.
    return event(now, "started", attempt, detail={"pid": pid, "waited": due and max(0.0, now - due)})


def added(row: sqlite3.Row, bill: Bill) -> dict[str, Any]:
    """Return the columns of a job with what another attempt took: the sum of the time, and the most memory."""
    columns: dict[str, Any] = {}
    if bill.cpu is not None:
        columns["cpu"] = (row["cpu"] or 0.0) + bill.cpu
    if bill.memory is not None:
        columns["memory"] = max(row["memory"] or 0, bill.memory)
    return columns


_OPTIONS = ("retries", "backoff", "timeout", "headers", "batch", "tags")
"""The attributes of a job that the column ``options`` holds."""


def options_of(job: JobSpec | Status) -> str | None:
    """Return the column ``options`` of a job: what its call said, as JSON; ``None`` if it said nothing of that kind."""
    if is_plain(job):
        return None
    said = {name: value for name in _OPTIONS if (value := getattr(job, name)) is not None}
    return json.dumps(said, default=dict) if said else None  # headers are a read-only mapping


def read_options(text: str | None) -> dict[str, Any]:
    """Return the attributes that the column ``options`` gives a job."""
    if not text:
        return {}
    said = {name: value for name, value in json.loads(text).items() if name in _OPTIONS}
    return {**said, "tags": tuple(said["tags"])} if "tags" in said else said


def add_tags(db: sqlite3.Connection, job: JobSpec | Status) -> None:
    """Have a job be found by its tags, if it has any, once it has a row."""
    # By no trigger: that would cost each job, also without tags, a fortieth of its price.
    db.executemany("INSERT OR IGNORE INTO job_tags VALUES (?, ?)", [(tag, job.id) for tag in job.tags or ()])


def remove_tags(db: sqlite3.Connection, row: sqlite3.Row) -> None:
    """Have a job not be found by its tags any more: those of its row, of which ``row`` has ``id`` and ``options``."""
    for tag in read_options(row["options"]).get("tags", ()):
        db.execute("DELETE FROM job_tags WHERE tag = ? AND job = ?", (tag, row["id"]))


def delete(db: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> None:
    """Delete jobs, whose ``rows`` have ``id`` and ``options``, with events and tags; the totals keep their figures."""
    totals.keep(db, [row["id"] for row in rows])
    for row in rows:
        remove_tags(db, row)
        db.execute("DELETE FROM events WHERE job = ?", (row["id"],))
        db.execute("DELETE FROM jobs WHERE id = ?", (row["id"],))


def job_of(row: sqlite3.Row) -> JobSpec:
    """Return the job of a row, without its arguments."""
    return JobSpec(
        row["id"],
        row["task"],
        engine=row["engine"],
        enqueued_at=row["enqueued_at"] or 0.0,
        run_at=row["run_at"],
        queue=row["queue"],
        expires_at=row["expires_at"],
        **read_options(row["options"]),
    )


def find(db: sqlite3.Connection, id: str) -> sqlite3.Row | None:
    """Return the row of the job ``id``, or ``None`` if it has none."""
    row: sqlite3.Row | None = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
    return row


def insert(
    db: sqlite3.Connection, id: str, state: State, now: float, columns: dict[str, Any], *events: EventRow
) -> None:
    """Add the row of the job ``id``, whose state is ``state`` from ``now`` (unix seconds) on, and its ``events``."""
    columns = {"id": id, "attempt": 0, "base": 0, **_state_columns(state, now), **columns, "has_events": bool(events)}
    db.execute(_insertion(tuple(columns)), encoded(columns.values()))
    _add_events(db, id, events)
    if state in FINISHED:
        note_end(db, id, state, now)


# The same text each time, so that SQLite has it prepared.


@lru_cache
def _insertion(names: tuple[str, ...]) -> str:
    return f"INSERT INTO jobs ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - names of ours


@lru_cache
def _change(names: tuple[str, ...]) -> str:
    return f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?"  # noqa: S608 - names of ours


@lru_cache
def _addition(events: int) -> str:
    marks = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * events)
    # Numbered after those that are there, whatever has_events says: a version before this one adds events without it.
    return (
        "INSERT INTO events (job, seq, time, kind, attempt, seconds, detail, log)"  # noqa: S608 - marks only
        " SELECT ?, last + column1, column2, column3, column4, column5, column6, column7"
        f" FROM (SELECT coalesce(max(seq), 0) AS last FROM events WHERE job = ?), (VALUES {marks})"
    )


def may_move(row: sqlite3.Row, after: State) -> bool:
    """Return whether the job of ``row`` may be moved into the state ``after``."""
    return after in MOVES[State(row["state"])]


def move(
    db: sqlite3.Connection,
    row: sqlite3.Row,
    after: State,
    now: float,
    columns: dict[str, Any],
    *events: EventRow,
    before: State | None = None,
    may_be_member: bool = True,
) -> None:
    """Move a job into the state ``after`` at ``now`` (unix seconds), change ``columns``, and add ``events``.

    Args:
        db: The connection, within a transaction.
        row: The row of the job as it is now.
        after: The new state.
        now: When, in unix seconds (UTC).
        columns: What else changes.
        events: What happened, in order.
        before: The state in which the job is known to be; ``None``: the one that is recorded.
        may_be_member: Whether the job may be a member of a batch; if not, that is not looked up.

    Raises:
        ForbiddenMoveError: :data:`~spoolkit.job.MOVES` does not allow it; nothing is changed.
    """
    before = before or State(row["state"])
    check_move(before, after, row["id"])
    update(db, row, {**_state_columns(after, now), **columns}, *events)
    if not may_be_member:
        return
    if after in FINISHED:
        note_end(db, row["id"], after, now)
    elif before in FINISHED or after is State.RUNNING:
        # A sweep may have taken it for dead between the record of a retry by hand and the move of its file.
        members.reopen(db, row["id"])


def note_end(db: sqlite3.Connection, id: str, state: State, now: float) -> None:
    """Tell the batch of the job ``id`` that the job has ended in ``state`` at ``now`` (unix seconds), if it has one.

    If the job is dead and its batch says so, the other members that have not ended are cancelled: those that run are
    asked to stop.
    """
    batch = members.end(db, id, state, now)
    if batch is None:
        return
    message = f"the member {id} of its batch is dead"
    for row in members.open_and_recorded(db, batch):
        _cancel(db, row, message, now)
    cancelled = event(now, "cancelled", detail={"message": message})
    members.cancel_unrecorded(
        db, batch, now, message=message, event_detail=cancelled.detail or "", options=json.dumps({"batch": batch})
    )


def _cancel(db: sqlite3.Connection, row: sqlite3.Row, message: str, now: float) -> None:
    if row["state"] == State.RUNNING:
        if not row["cancel"]:
            update(db, row, {"cancel": 1}, event(now, "cancel asked", row["attempt"]))
    elif may_move(row, State.CANCELLED):
        columns: dict[str, Any] = {"cancel": 1, "error_type": None, "error_message": message, "ending": "cancelled"}
        columns.update(pid=None, identity=None)
        move(db, row, State.CANCELLED, now, columns, event(now, "cancelled", detail={"message": message}))


def check_move(before: State, after: State, id: str = "") -> None:
    """Raise :class:`ForbiddenMoveError` unless :data:`~spoolkit.job.MOVES` allows the move."""
    if after not in MOVES[before]:
        raise ForbiddenMoveError(f"job {id} may not become {after}: it is {before}")


def update(db: sqlite3.Connection, row: sqlite3.Row, columns: dict[str, Any], *events: EventRow) -> None:
    """Change these columns of the job of ``row``, but for its state (see :func:`move`), and add ``events``."""
    if events:
        # Now, before the row changes: afterwards it does not tell any more what came first.
        _add_events(db, row["id"], (*derived_events(row), *events))
        columns = {**columns, "has_events": 1}
    db.execute(_change(tuple(columns)), (*encoded(columns.values()), row["id"]))


def _add_events(db: sqlite3.Connection, id: str, events: Sequence[EventRow]) -> None:
    if events:
        values = [value for number, row in enumerate(events, 1) for value in (number, *row)]
        db.execute(_addition(len(events)), (id, id, *values))


def is_running(row: sqlite3.Row) -> bool:
    """Return whether the process that runs the job of ``row`` is alive. A worker is, until it is heard to be lost."""
    if row["state"] != State.RUNNING:
        return False
    return bool(row["engine"] == "celery" or process.is_alive(row["pid"], row["identity"]))


def progress_text(progress: Progress) -> str:
    """Return ``progress`` as the column of that name holds it."""
    return json.dumps([progress.done, progress.total, progress.note])


def encodable(text: str) -> str:
    """Return ``text`` with escapes for what SQLite refuses."""
    # SQLite's text is UTF-8: half a surrogate pair, as in the name of a file, would be refused.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _state_columns(state: State, now: float) -> dict[str, Any]:
    return {"state": state.value, "finished_at": now if state in FINISHED else None}


def encoded(values: Iterable[object]) -> list[object]:
    """Return ``values`` with :func:`encodable` texts."""
    return [encodable(value) if isinstance(value, str) else value for value in values]
