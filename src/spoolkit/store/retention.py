"""Which old records are deleted, and when? A few at a time, by the processes that run jobs: no request waits for it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable

from spoolkit.errors import StoreUnavailableError
from spoolkit.job import FINAL, FINISHED, State
from spoolkit.settings import Settings
from spoolkit.spooldir import checkpoints, dead, running, spoolfile
from spoolkit.store import batches, locations, orphans, queries, rates, rows
from spoolkit.store.database import Database
from spoolkit.system import clock, files
from spoolkit.system.process import PerProcess

INTERVAL = 30.0
"""Seconds between two deletions of one process, if the earlier one deleted all that was old enough."""

BATCH = 200
"""How many jobs are deleted at once."""

CHECKPOINT_AGE = 366 * 86400.0
"""Seconds after which the checkpoint of an unrecorded job is deleted."""

IDS_AT_ONCE = 500
"""For how many jobs the store is asked at once."""

FileExists = Callable[[str, str | None], bool]
"""Whether the job with an id still has a file, which had a name (if any) when it was last claimed."""

last_deletion = PerProcess(lambda: -INTERVAL)
"""When this process last deleted something, on the monotonic clock."""


def delete_some(store: Database, spool_dir: str, config: Settings) -> bool:
    """Delete some of the jobs that ended long enough ago. Never raises.

    Does nothing within :data:`INTERVAL` seconds after the last deletion of this process, unless there was more to
    delete than one batch.

    Args:
        store: Where the jobs are recorded.
        spool_dir: The spool directory that this process serves.
        config: The settings, which say how long jobs are kept.

    Returns:
        Whether it was time to: other work that is done now and then may be done as well.
    """
    begun = time.monotonic()
    if begun - last_deletion.get() < INTERVAL:
        return False
    last_deletion.set(begun)
    now = clock.now()
    running.sweep(spool_dir)
    try:
        orphans.mark_lost(store, locations.spool_dir_of(None, config))
        # The store is that of all queues. A member that the death of another one has cancelled keeps its file until it
        # is due, in whichever of them.
        spool_dirs = dict.fromkeys([spool_dir, *locations.spool_dirs(config)])
        deleted = delete(store, spool_dirs, FINAL, now - config.keep_done, BATCH)
        deleted = max(deleted, delete_dead(store, spool_dir, now - config.keep_dead, BATCH))
        rates.delete_idle(store, now)
    except (StoreUnavailableError, OSError):
        return True  # the next job that is run logs it
    if deleted >= BATCH:
        last_deletion.set(begun - INTERVAL)
    return True


def delete_leftovers(store: Database, spool_dir: str) -> None:
    """Delete the files that attempts left in ``spool_dir`` whose process was killed after they ended. Never raises.

    These are the progress and the checkpoint of jobs that are finished, and marks of stops that are recorded by now.
    """
    files.sweep(os.path.join(spool_dir, checkpoints.FOLDER))
    with contextlib.suppress(StoreUnavailableError):
        orphans.delete_stale_marks(store, spool_dir)
        stored = dict(checkpoints.stored(spool_dir))
        for start in range(0, len(stored), IDS_AT_ONCE):
            batch = list(stored)[start : start + IDS_AT_ONCE]
            known = queries.states(store, batch)
            for id in batch:
                if known.get(id) in FINAL or (id not in known and stored[id] < clock.now() - CHECKPOINT_AGE):
                    checkpoints.delete(spool_dir, id)
        running.sweep(spool_dir)
        ids = running.job_ids(spool_dir)
        for start in range(0, len(ids), IDS_AT_ONCE):
            for id, state in queries.states(store, ids[start : start + IDS_AT_ONCE]).items():
                if state is not State.RUNNING:
                    running.delete(spool_dir, id)


def delete(store: Database, spool_dirs: Iterable[str], states: Iterable[State], before: float, limit: int) -> int:
    """Delete the records of jobs that ended long ago and have no file, the oldest first.

    Args:
        store: Where the jobs are recorded.
        spool_dirs: Where their files may be.
        states: Only jobs that ended in these states.
        before: Only jobs that ended before then, in unix seconds (UTC).
        limit: How many jobs at most.

    Returns:
        How many jobs were deleted.

    Raises:
        StoreUnavailableError: They cannot be deleted.
    """
    wanted = [state.value for state in states]
    sql = f"SELECT 1 FROM jobs WHERE state IN ({', '.join('?' * len(wanted))}) AND finished_at < ? LIMIT 1"  # noqa: S608
    if not store.read(sql, (*wanted, before)):
        return 0  # as nearly always: nobody waits for a lock, and no directory with 100,000 names is read
    return delete_rows(store, map(State, wanted), before, limit, file_exists=_file_exists_in(spool_dirs))


def delete_dead(store: Database, spool_dir: str, before: float, limit: int) -> int:
    """Delete dead jobs: their files in ``spool_dir`` and their records.

    Args:
        store: Where the jobs are recorded.
        spool_dir: The spool directory.
        before: Only jobs that died before then, in unix seconds (UTC).
        limit: How many jobs at most.

    Returns:
        How many jobs were deleted.

    Raises:
        OSError: Their folder cannot be read, or a file cannot be deleted.
        StoreUnavailableError: Their records cannot be deleted.
    """
    deleted = dead.delete_older(spool_dir, before, limit)
    # Also in the others: the file of a batch, which may be forgotten with its last member, lies in any of them.
    spool_dirs = dict.fromkeys([spool_dir, *locations.spool_dirs()])
    return max(deleted, delete(store, spool_dirs, (State.DEAD,), before, limit))


def delete_rows(
    store: Database,
    states: Iterable[State],
    before: float,
    limit: int,
    *,
    file_exists: FileExists = lambda id, file: False,
) -> int:
    """Delete the rows and events of jobs that ended long ago, the oldest first, but for those that have a file.

    A member of a batch ends, for this, when the last member does.

    Args:
        store: Where they are recorded.
        states: Only jobs that ended in these states.
        before: Only jobs that ended before then, in unix seconds (UTC).
        limit: How many jobs at most.
        file_exists: Whether a job still has a file. Without its record, the file would be a new job.

    Returns:
        How many jobs were deleted.

    Raises:
        StoreUnavailableError: They cannot be deleted.
    """
    old: list[sqlite3.Row] = []
    with store.transaction() as db:
        kept = batches.callbacks_to_record(db)
        for state in states:
            found = db.execute(_OLD, {"state": state.value, "before": before, "limit": limit - len(old)}).fetchall()
            old += [row for row in found if row["id"] not in kept and not file_exists(row["id"], row["file"])]
        rows.delete(db, old)
        batches.delete_batches(db, before, limit, file_exists=lambda id: file_exists(id, None))
    return len(old)


# The callback of a batch asks for the results of members that ended long before the last one.
_OLD = (
    "SELECT id, file, options FROM jobs WHERE state = :state AND finished_at < :before AND NOT EXISTS"
    " (SELECT 1 FROM members JOIN batches ON batches.id = members.batch"
    " WHERE members.job = jobs.id AND (completed_at IS NULL OR completed_at >= :before))"
    " ORDER BY finished_at LIMIT :limit"
)


def delete_one(store: Database, spool_dirs: Iterable[str], id: str) -> bool:
    """Delete the record of a finished job that has no file.

    Args:
        store: Where it is recorded.
        spool_dirs: Where its file may be.
        id: The id of the job.

    Returns:
        Whether it was deleted.

    Raises:
        StoreUnavailableError: It cannot be deleted.
    """
    file_exists = _file_exists_in(spool_dirs)
    with store.transaction() as db:
        row = rows.find(db, id)
        if row is None or State(row["state"]) not in FINISHED or file_exists(id, row["file"]):
            return False
        if id in batches.callbacks_to_record(db):
            return False
        rows.delete(db, [row])
    return True


def _file_exists_in(spool_dirs: Iterable[str]) -> FileExists:
    """Look for files in ``spool_dirs``: a killed process may leave the file of a job whose end it has recorded."""
    folders: list[str] = []
    for spool_dir in spool_dirs:
        with contextlib.suppress(OSError):
            folders += spoolfile.folders_of_jobs(spool_dir)
    return lambda id, file: any(spoolfile.find(folder, id, file) for folder in folders)
