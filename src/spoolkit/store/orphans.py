"""What becomes of jobs whose process is gone? A thread job is lost; a job that the server's stop cut off runs again."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from spoolkit import signals
from spoolkit.job import Failure, JobSpec, Progress, State
from spoolkit.spooldir import running, spoolers, waiting
from spoolkit.store import rows, transitions
from spoolkit.store.database import Database
from spoolkit.system import cgroup, clock, log, process

INTERRUPTED = "the server stopped before it was done"
"""The message of an attempt that a stop of the server cut off."""

STOP_LOCK_TIMEOUT = 2.0
"""Seconds that a stop waits for the transactions of other processes, however many processes it interrupts."""

ReadLeftovers = Callable[[str, str | None], tuple[Progress | None, str]]
"""Returns the progress and the log that a job left behind, given its id and its queue."""

_IN_A_PROCESS = "engine <> 'spool' AND finished_at IS NULL AND engine <> 'celery'"
"""Unfinished jobs without a file. Spelled as in the index ``jobs_of_processes``: SQLite uses it only then."""


# Jobs without a file, which are lost with their process.


def mark_lost(store: Database, spool_dir: str) -> int:
    """Record jobs without a file as lost whose process is gone, and log each of them.

    Args:
        store: Where they are recorded.
        spool_dir: The spool directory in which their progress and their log are.

    Returns:
        How many jobs were lost.

    Raises:
        StoreUnavailableError: It cannot be recorded.
    """
    owners = store.read(f"SELECT DISTINCT pid, identity FROM jobs WHERE {_IN_A_PROCESS}")  # noqa: S608 - ours
    gone = [tuple(row) for row in owners if not process.is_alive(row["pid"], row["identity"])]
    if not gone:
        return 0
    lost, reasons = list[sqlite3.Row](), dict[int, str]()
    with store.transaction() as db:
        for pid, identity in gone:
            how = cgroup.explanation(running.facts(spool_dir, pid).kills, pid) or "has ended"
            reasons[pid] = f"its process {pid} {how}"
            lost += _mark_lost(db, spool_dir, "pid = ? AND identity = ?", (pid, identity), reasons[pid])
    for row in lost:
        log.error("job %s of %s is lost: %s", row["id"], row["task"], reasons[row["pid"]])
        _clean_up(spool_dir, row["id"])
    running.sweep(spool_dir)
    for row in lost:
        signals.lost([rows.job_of(row)], reasons[row["pid"]])
    return len(lost)


def mark_own_lost(store: Database, spool_dir: str, jobs: Iterable[JobSpec], reason: str) -> list[JobSpec]:
    """Record those of ``jobs`` as lost that are not finished: they belong to this process, which is exiting.

    Args:
        store: Where they are recorded.
        spool_dir: The spool directory in which their progress and their log are.
        jobs: Thread jobs of this process.
        reason: Why they are lost, for people.

    Returns:
        Those that were not finished.

    Raises:
        StoreUnavailableError: It cannot be recorded.
    """
    jobs = list(jobs)
    transitions.record_queued(store, jobs)
    with store.transaction() as db:
        lost = [job for job in jobs if _mark_lost(db, spool_dir, "id = ?", (job.id,), reason)]
    for job in jobs:
        _clean_up(spool_dir, job.id)
    return lost


def _mark_lost(
    db: sqlite3.Connection, spool_dir: str, condition: str, values: tuple[object, ...], reason: str
) -> list[sqlite3.Row]:
    sql = f"SELECT * FROM jobs WHERE {condition} AND {_IN_A_PROCESS}"  # noqa: S608 - texts of this module
    lost = db.execute(sql, values).fetchall()
    now = clock.now()
    for row in lost:
        columns = {"pid": None, "identity": None, "ending": "lost", "error_type": None, "error_message": reason}
        was_running = row["state"] == State.RUNNING
        progress, text = running.read(spool_dir, row["id"], row["pid"]) if was_running else (None, "")
        if progress is not None:
            columns["progress"] = rows.progress_text(progress)
        attempt = row["attempt"] if was_running else None
        event = rows.event(now, "lost", attempt, detail={"message": reason}, log=text)
        rows.move(db, row, State.LOST, now, columns, event)
    return lost


def _clean_up(spool_dir: str, id: str) -> None:
    with contextlib.suppress(OSError):
        running.delete(spool_dir, id)
        waiting.wake_waiters(spool_dir, id)


# Jobs that a stop of the server cuts off: the attempt does not count, and the job runs again.


class Interrupted(NamedTuple):
    """A job of which a stop of the server has cut an attempt short."""

    #: The job, without its arguments.
    job: JobSpec
    #: The number of the attempt.
    attempt: int
    #: The state of the job now: it runs again, or is cancelled.
    state: State


def announce(interrupted: Iterable[Interrupted]) -> None:
    """Send the signals of interrupted jobs: what receivers do must not delay the record, nor what hangs on it."""
    for one in interrupted:
        signals.interrupted(one.job, one.attempt, Failure(INTERRUPTED, ending="interrupted"), one.state)


def interrupt(
    store: Database, pids: Iterable[int], *, kill: Callable[[int], None], read_leftovers: ReadLeftovers
) -> list[Interrupted]:
    """Kill processes because the server stops, and record the attempts that they run as interrupted.

    Args:
        store: Where the jobs are recorded.
        pids: The processes.
        kill: Called with the pid of a process that runs a job and is alive. No other process can settle the job
            meanwhile.
        read_leftovers: Returns the progress and the log that a job leaves behind. Called after ``kill``.

    Returns:
        The jobs that were interrupted.

    Raises:
        StoreUnavailableError: It cannot be recorded; raised within :data:`STOP_LOCK_TIMEOUT` seconds.
    """
    now = clock.now()
    jobs: list[Interrupted] = []
    with store.transaction(STOP_LOCK_TIMEOUT) as db:
        for pid in pids:
            found = db.execute("SELECT * FROM jobs WHERE state = 'running' AND pid = ?", (pid,)).fetchall()
            for row in found:
                if rows.is_running(row):
                    kill(pid)
                after = State.CANCELLED if row["cancel"] else State.RETRYING
                columns: dict[str, Any] = {"pid": None, "identity": None}
                columns.update(ending="interrupted", error_message=INTERRUPTED, run_at=now)
                # One more before the last reset, and one more allowed: so this attempt does not count.
                columns.update(base=row["base"] + 1, max_attempts=row["max_attempts"] + 1)
                progress, text = read_leftovers(row["id"], row["queue"])
                if progress is not None:
                    columns["progress"] = rows.progress_text(progress)
                seconds, detail = now - row["started_at"], {"message": INTERRUPTED}
                event = rows.event(now, "interrupted", row["attempt"], seconds, detail, text)
                rows.move(db, row, after, now, columns, event)
                jobs.append(Interrupted(rows.job_of(row), row["attempt"], after))
    return jobs


def delete_stale_marks(store: Database, spool_dir: str) -> None:
    """Delete marks of stopped processes that no job is waiting for: none is recorded as running in that process.

    Raises:
        StoreUnavailableError: The store cannot be read.
    """
    for pid in spoolers.marked_stopped(spool_dir):
        found = store.read("SELECT identity FROM jobs WHERE state = 'running' AND pid = ?", (pid,))
        if not any(spoolers.was_stopped(spool_dir, pid, row["identity"]) for row in found):
            spoolers.unmark_stopped(spool_dir, pid)
