"""Jobs that live in a process only: their rows while they wait there, and what is said once it is gone."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable

from spoolkit.job import JobSpec, State
from spoolkit.spooldir import running as recorder
from spoolkit.spooldir import waiting
from spoolkit.store import rows, transitions
from spoolkit.store.database import Database
from spoolkit.system import clock, log, process

_OF_A_PROCESS = "engine <> 'spool' AND finished_at IS NULL"
"""Spelled as in the index ``jobs_of_processes``, or SQLite would not use it."""


def mark_own_lost(store: Database, spool_dir: str, jobs: Iterable[JobSpec], reason: str) -> None:
    """Record these of this process as lost, as far as they are not over. Raises :class:`StoreUnavailableError`."""
    jobs = list(jobs)
    transitions.record_queued(store, jobs)
    with store.transaction() as db:
        for job in jobs:
            _lose(spool_dir, db, "id = ?", (job.id,), reason)
    for job in jobs:
        _tidy(spool_dir, job.id)


def mark_lost(store: Database, spool_dir: str) -> int:
    """Record as lost what the processes had that are gone, and say so; returns how many jobs that were.

    Raises :class:`StoreUnavailableError`.
    """
    having = store.read(f"SELECT DISTINCT pid, identity FROM jobs WHERE {_OF_A_PROCESS}")  # noqa: S608 - ours
    gone = [tuple(row) for row in having if not process.is_alive(row["pid"], row["identity"])]
    if not gone:
        return 0
    lost: list[sqlite3.Row] = []
    with store.transaction() as db:
        for pid, identity in gone:
            reason = f"its process {pid} went away"
            lost += _lose(spool_dir, db, "pid = ? AND identity = ?", (pid, identity), reason)
    for row in lost:
        log.error("job %s of %s is lost: its process %d went away", row["id"], row["task"], row["pid"])
        _tidy(spool_dir, row["id"])
    return len(lost)


def _lose(
    spool_dir: str, db: sqlite3.Connection, which: str, values: tuple[object, ...], reason: str
) -> list[sqlite3.Row]:
    sql = f"SELECT * FROM jobs WHERE {which} AND {_OF_A_PROCESS}"  # noqa: S608 - texts of this module
    lost = db.execute(sql, values).fetchall()
    now = clock.now()
    for row in lost:
        columns = {"pid": None, "identity": None, "ending": "lost", "error_type": None, "error_message": reason}
        running = row["state"] == State.RUNNING
        progress, left = recorder.read(spool_dir, row["id"]) if running else (None, "")
        if progress is not None:
            columns["progress"] = rows.progress_text(progress)
        rows.move(db, row["id"], State(row["state"]), State.LOST, now, columns)
        attempt = row["attempt"] if running else None
        rows.add_event(db, row["id"], "lost", now, attempt, detail={"message": reason}, log=left)
    return lost


def _tidy(spool_dir: str, id: str) -> None:
    with contextlib.suppress(OSError):
        recorder.delete(spool_dir, id)
        waiting.wake_waiters(spool_dir, id)
