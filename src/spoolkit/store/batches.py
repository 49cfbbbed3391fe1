"""How is a batch accepted, completed, called back and deleted? What ends its members is in ``members.py``.

Each raises :class:`StoreUnavailableError` if the store cannot be read or written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from spoolkit.job import FINISHED, BatchStatus, JobSpec, State, id_after
from spoolkit.store import members, rows
from spoolkit.store.database import Database
from spoolkit.store.transitions import Result
from spoolkit.system import clock

EXAMINED = 200
"""How many members of one batch are examined at once, those first that were added first. Of these the ones that wait
will end, and leave the others."""

BATCHES_EXAMINED = 50
"""How many of the open batches are examined at once, each time others."""


class Suspect(NamedTuple):
    """A member of which the store does not know that it has ended."""

    #: The id of the job.
    job: str
    #: The recorded state; ``None``: it has no record.
    state: State | None
    #: How many attempts are recorded.
    attempt: int
    #: The name of its queue or a spool directory; ``None``: the default one.
    queue: str | None


def accept(
    store: Database,
    batch: BatchStatus,
    jobs: Iterable[JobSpec],
    callback: bytes | None,
    *,
    still_there: Callable[[], bool],
) -> bool:
    """Record a batch with all its members: from then on it is accepted. One without members is complete.

    Args:
        store: Where it is recorded.
        batch: The batch.
        jobs: Its members.
        callback: The spool file of its callback, whatever id that has; ``None``: it has no callback.
        still_there: Whether the files of the members are where they were written. It is called while no other process
            writes.

    Returns:
        What ``still_there()`` returned: if not, nothing is recorded.
    """
    with store.transaction() as db:
        if not still_there():
            return False
        db.execute(
            "INSERT INTO batches (id, name, on_death, created_at, callback) VALUES (?, ?, ?, ?, ?)",
            (batch.id, rows.encodable(batch.name), batch.on_death, batch.created_at, callback),
        )
        db.executemany(
            "INSERT INTO members (job, batch, task, queue) VALUES (?, ?, ?, ?)",
            ((job.id, batch.id, *rows.encoded((job.task, job.queue))) for job in jobs),
        )
        members.complete(db, batch.id, clock.now())
    return True


def forget_unless_accepted(store: Database, id: str, forget: Callable[[], None]) -> None:
    """Call ``forget`` unless the batch ``id`` is accepted, while no other process can accept it."""
    with store.transaction() as db:
        if _find(db, id) is None:
            forget()


def batch(store: Database, id: str) -> BatchStatus | None:
    """Return what is recorded of the batch ``id``; ``None`` if nothing is."""
    found = store.read("SELECT * FROM batches WHERE id = ?", (id,))
    if not found:
        return None
    row, counts = found[0], store.read(_COUNTS, (id,))
    return BatchStatus(
        id=row["id"],
        name=row["name"],
        created_at=row["created_at"],
        completed_at=row["completed_at"],
        generation=row["generation"],
        on_death=row["on_death"],
        callback=row["callback_job"],
        members={State(count["state"]): count["n"] for count in counts},
    )


_COUNTS = (
    "SELECT coalesce(members.ended, jobs.state, 'queued') AS state, count(*) AS n"
    " FROM members LEFT JOIN jobs ON jobs.id = members.job WHERE batch = ? GROUP BY 1"
)


def batch_ids(store: Database, prefix: str) -> list[str]:
    """Return the ids of batches that begin with ``prefix``: two at most."""
    sql = "SELECT id FROM batches WHERE id >= ? AND id < ? LIMIT 2"
    return [row["id"] for row in store.read(sql, (prefix, f"{prefix}\U0010ffff"))]


def batch_members(store: Database, id: str) -> list[tuple[str, State | None]]:
    """Return the id of each member of the batch ``id``, and in which state it ended, in the order of their adding."""
    found = store.read("SELECT job, ended FROM members WHERE batch = ? ORDER BY rowid", (id,))
    return [(row["job"], None if row["ended"] is None else State(row["ended"])) for row in found]


def batch_results(store: Database, id: str) -> list[tuple[str, Result]]:
    """Return what those members of the batch ``id`` returned that are done and recorded, in the order of adding."""
    return [
        (row["job"], Result(row["result"], row["result_error"] if row["state"] == State.DONE else _UNRECORDED))
        for row in store.read(_RESULTS, (id,))
    ]


_RESULTS = (
    "SELECT job, state, result, result_error FROM members JOIN jobs ON jobs.id = members.job"
    " WHERE batch = ? AND coalesce(ended, state) = 'done' ORDER BY members.rowid"
)

_UNRECORDED = "the job is done, but the store could not be written"


def asked_to_stop(store: Database, id: str) -> list[tuple[str, str | None, int]]:
    """Return the members of the batch ``id`` that were asked to stop and run in a process of this machine.

    Returns:
        Their ids, queues and processes.
    """
    found = store.read(
        "SELECT jobs.id, jobs.queue, jobs.pid FROM members JOIN jobs ON jobs.id = members.job"
        " WHERE members.batch = ? AND members.ended IS NULL AND jobs.state = 'running' AND jobs.cancel"
        " AND jobs.pid IS NOT NULL",
        (id,),
    )
    return [(row["id"], row["queue"], row["pid"]) for row in found]


# The callback


def to_call_back(store: Database) -> list[str]:
    """Return the ids of the batches that are complete, and whose callback is not accepted yet."""
    return [row["id"] for row in store.read(f"SELECT id FROM batches WHERE {_TO_CALL_BACK}")]  # noqa: S608 - ours


def overdue_callbacks(store: Database, before: float) -> list[str]:
    """Return the ids of the batches that were complete before then (unix seconds) and have not called back."""
    found = store.read(f"SELECT id FROM batches WHERE {_TO_CALL_BACK} AND completed_at < ?", (before,))  # noqa: S608 - ours
    return [row["id"] for row in found]


_TO_CALL_BACK = "callback IS NOT NULL AND called_back < generation AND completed_at IS NOT NULL"
"""The first two conditions are spelled as in the index ``batches_to_call_back``: SQLite uses it only then."""


def call_back(store: Database, id: str, write: Callable[[str, bytes], None]) -> None:
    """Have the callback of a complete batch written, unless it is accepted, and record that it is.

    Args:
        store: Where the batch is recorded.
        id: The batch.
        write: Called with the id of the callback's job, which is the same each time, and the spool file that
            :func:`accept` recorded. It makes sure that the job exists. No other process writes meanwhile: otherwise it
            might run the job, and delete its record, just before this process looks for it.
    """
    with store.transaction() as db:
        row = db.execute(f"SELECT * FROM batches WHERE id = ? AND {_TO_CALL_BACK}", (id,)).fetchone()  # noqa: S608 - ours
        if row is not None:
            job = _callback_id(row)
            write(job, row["callback"])
            db.execute("UPDATE batches SET called_back = generation, callback_job = ? WHERE id = ?", (job, id))


def callbacks_to_record(db: sqlite3.Connection) -> set[str]:
    """Return the ids of the callbacks that may have been accepted without a record of it: a sweep looks for them."""
    found = db.execute(f"SELECT id, generation, completed_at FROM batches WHERE {_TO_CALL_BACK}")  # noqa: S608 - ours
    return {_callback_id(row) for row in found}


def _callback_id(batch: sqlite3.Row) -> str:
    return id_after(batch["id"], f"callback {batch['generation']}", batch["completed_at"])


# Members that will never end


def suspects(store: Database, most: int = EXAMINED) -> list[Suspect]:
    """Return members of some open batches that have not ended.

    Args:
        store: Where they are recorded.
        most: How many members of each batch are examined.
    """
    found: list[Suspect] = []
    for batch in store.read(_SOME_OPEN, (BATCHES_EXAMINED,)):
        for row in store.read(_OPEN, (batch["id"], most)):
            state = None if row["state"] is None else State(row["state"])
            found.append(Suspect(row["job"], state, row["attempt"] or 0, row["queue"]))
    return found


_SOME_OPEN = "SELECT id FROM batches WHERE completed_at IS NULL ORDER BY random() LIMIT ?"

_OPEN = (
    "SELECT members.job, members.queue, jobs.state, jobs.attempt FROM members LEFT JOIN jobs ON jobs.id = members.job"
    " WHERE members.batch = ? AND members.ended IS NULL ORDER BY members.rowid LIMIT ?"
)


def end_members(store: Database, ends: Mapping[Suspect, State]) -> int:
    """Note the end of members that end without a record, unless they were claimed or have ended meanwhile.

    Args:
        store: Where they are recorded.
        ends: Each as it was recorded, and what its file, or its absence, says of it.

    Returns:
        How many ends were noted.
    """
    noted, now = 0, clock.now()
    with store.transaction() as db:
        for suspect, state in ends.items():
            job, row = suspect.job, rows.find(db, suspect.job)
            recorded = None if row is None else State(row["state"])
            if recorded in FINISHED:
                state = recorded
            elif row is not None and rows.is_running(row) and row["attempt"] != suspect.attempt:
                continue
            if db.execute("SELECT 1 FROM members WHERE job = ? AND ended IS NULL", (job,)).fetchone():
                rows.note_end(db, job, state, now)
                noted += 1
    return noted


# Deletion


def delete_batches(db: sqlite3.Connection, before: float, limit: int, *, file_exists: Callable[[str], bool]) -> None:
    """Delete batches that were complete before then (unix seconds), and of which no member is recorded any more.

    But for those of which ``file_exists`` says that they still have the file in which they have waited for a commit:
    without the record, it would be a new batch.
    """
    found = db.execute(_FORGOTTEN, (before, limit)).fetchall()
    for row in found:
        if file_exists(row["id"]):
            continue
        db.execute("DELETE FROM members WHERE batch = ?", (row["id"],))
        db.execute("DELETE FROM batches WHERE id = ?", (row["id"],))


_FORGOTTEN = (
    "SELECT id FROM batches WHERE completed_at < ? AND (callback IS NULL OR called_back = generation) AND NOT EXISTS"
    " (SELECT 1 FROM members JOIN jobs ON jobs.id = members.job WHERE members.batch = batches.id) LIMIT ?"
)


def _find(db: sqlite3.Connection, id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute("SELECT 1 FROM batches WHERE id = ?", (id,)).fetchone()
    return row
