"""Which members of a batch have ended? It is written in the transaction that records the end of the job itself.

A batch is complete if all of its members have ended: that is asked of the set, and nothing is counted. So no end can be
counted twice or be missed, whatever is killed in between.
"""

from __future__ import annotations

import sqlite3

from spoolkit.job import State


def end(db: sqlite3.Connection, job: str, state: State, now: float) -> list[sqlite3.Row]:
    """Note that a job has ended, if it is a member of a batch, and that the batch is complete if no other is left.

    Args:
        db: The connection, within a transaction.
        job: The id of the job.
        state: In which state it ended.
        now: When, in unix seconds (UTC).

    Returns:
        The members that are to be cancelled now, because this one is dead: ``job``, ``batch``, ``task``, ``queue``.
    """
    member = db.execute("SELECT batch FROM members WHERE job = ?", (job,)).fetchone()
    if member is None:
        return []
    db.execute("UPDATE members SET ended = ? WHERE job = ?", (state.value, job))
    complete(db, member["batch"], now)
    return db.execute(_REST, (member["batch"],)).fetchall() if state is State.DEAD else []


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

_REST = (
    "SELECT job, batch, task, queue FROM members WHERE batch = ? AND ended IS NULL"
    " AND EXISTS (SELECT 1 FROM batches WHERE id = members.batch AND on_death = 'cancel') ORDER BY rowid"
)
