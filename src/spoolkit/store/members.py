"""Which members of a batch have ended? It is written in the transaction that records the end of the job itself.

A batch is complete if all of its members have ended: that is asked of the set, and nothing is counted. So no end can be
counted twice or be missed, whatever is killed in between.
"""

from __future__ import annotations

import sqlite3

from spoolkit.job import State


def end(db: sqlite3.Connection, job: str, state: State, now: float) -> str | None:
    """Note that a job has ended, if it is a member of a batch, and that the batch is complete if no other is left.

    Args:
        db: The connection, within a transaction.
        job: The id of the job.
        state: In which state it ended.
        now: When, in unix seconds (UTC).

    Returns:
        The batch whose other members are to be cancelled now, because this one is dead.
    """
    member = db.execute("SELECT batch FROM members WHERE job = ?", (job,)).fetchone()
    if member is None:
        return None
    batch: str = member["batch"]
    db.execute("UPDATE members SET ended = ? WHERE job = ?", (state.value, job))
    complete(db, batch, now)
    if state is not State.DEAD:
        return None
    return None if db.execute(_CANCELS, (batch,)).fetchone() is None else batch


def open_and_recorded(db: sqlite3.Connection, batch: str) -> list[sqlite3.Row]:
    """Return the rows in ``jobs`` of the members that have not ended, in the order of their adding."""
    return db.execute(_RECORDED, (batch,)).fetchall()


def cancel_unrecorded(
    db: sqlite3.Connection, batch: str, now: float, *, message: str, event_detail: str, options: str
) -> None:
    """Cancel the members that have not ended and have no record yet, which they get by that.

    Each statement is for all of them: there may be 10,000, and no other process writes meanwhile.

    Args:
        db: The connection, within a transaction.
        batch: The batch.
        now: When, in unix seconds (UTC).
        message: Why, for people.
        event_detail: The same, as the column ``detail`` of an event.
        options: The column ``options`` of each of the jobs.
    """
    values = {"batch": batch, "now": now, "message": message, "detail": event_detail, "options": options}
    for statement in _CANCEL_UNRECORDED:
        db.execute(statement, values)
    complete(db, batch, now)


def complete(db: sqlite3.Connection, batch: str, now: float) -> None:
    """Note that a batch is complete from ``now`` (unix seconds) on, if it was not and all of its members have ended."""
    db.execute(_COMPLETE, (now, batch))


def reopen(db: sqlite3.Connection, job: str) -> None:
    """Note that a job runs again after its end, if it is a member of a batch: the batch is not complete any more."""
    if db.execute("UPDATE members SET ended = NULL WHERE job = ? AND ended IS NOT NULL", (job,)).rowcount:
        db.execute(
            "UPDATE batches SET completed_at = NULL WHERE id = (SELECT batch FROM members WHERE job = ?)", (job,)
        )


_COMPLETE = (
    "UPDATE batches SET completed_at = ?, generation = generation + 1 WHERE id = ? AND completed_at IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM members WHERE batch = batches.id AND ended IS NULL)"
)

_CANCELS = "SELECT 1 FROM batches WHERE id = ? AND on_death = 'cancel'"

_RECORDED = (
    "SELECT jobs.* FROM members JOIN jobs ON jobs.id = members.job WHERE batch = ? AND ended IS NULL"
    " ORDER BY members.rowid"
)

_UNRECORDED = (
    " FROM members JOIN batches ON batches.id = members.batch WHERE members.batch = :batch AND members.ended IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = members.job)"
)

_CANCEL_UNRECORDED = (
    f"INSERT INTO events (job, seq, time, kind, detail) SELECT members.job, 1, :now, 'cancelled', :detail{_UNRECORDED}",
    "INSERT INTO jobs (id, task, engine, queue, enqueued_at, state, finished_at, attempt, base, cancel, error_message,"
    " ending, options, has_events)"
    " SELECT members.job, members.task, 'spool', members.queue, batches.created_at, 'cancelled', :now, 0, 0, 1,"
    f" :message, 'cancelled', :options, 1{_UNRECORDED} ORDER BY members.rowid",
    "UPDATE members SET ended = 'cancelled' WHERE batch = :batch AND ended IS NULL"
    " AND EXISTS (SELECT 1 FROM jobs WHERE id = members.job AND state = 'cancelled')",
)
