"""Old records are forgotten by the spoolers, a few between two jobs: never in a request's way."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable

from spoolkit.errors import StoreUnavailableError
from spoolkit.job import FINAL, State
from spoolkit.settings import Settings
from spoolkit.spooldir import checkpoints, dead, running, spoolfile
from spoolkit.store import interruption, locations, orphans, queries
from spoolkit.store.database import Database
from spoolkit.system import clock, files

PAUSE = 30.0
"""Seconds between two looks of one process, where the last one left nothing."""

AT_ONCE = 200
"""Jobs that are forgotten in one look."""

FORGOTTEN = 366 * 86400.0
"""Seconds after which a checkpoint has no job any more, where none is recorded."""

FileExists = Callable[[str, str | None], bool]
"""Whether the job with an id still has a file, which had a name (if any) when it was last claimed."""

_last = -PAUSE


def a_little(store: Database, root: str, config: Settings) -> None:
    """Forget some of what is old enough, if the last look is long ago or left something. Never raises."""
    global _last
    if time.monotonic() - _last < PAUSE:
        return
    _last = time.monotonic()
    now = clock.now()
    try:
        orphans.mark_lost(store, locations.directory(config))
        forgotten = delete(store, [root], FINAL, now - config.keep_done, AT_ONCE)
        forgotten = max(forgotten, delete_dead(store, root, now - config.keep_dead, AT_ONCE))
    except (StoreUnavailableError, OSError):
        return  # whoever runs the next job complains
    if forgotten >= AT_ONCE:
        _last -= PAUSE


def sweep(store: Database, spool_dir: str) -> None:
    """Remove the files of attempts that are recorded as finished: their process was killed then. Never raises."""
    files.sweep(os.path.join(spool_dir, checkpoints.FOLDER))
    with contextlib.suppress(StoreUnavailableError):
        interruption.sweep(store, spool_dir)
        stored = dict(checkpoints.stored(spool_dir))
        for at in range(0, len(stored), 500):
            some = list(stored)[at : at + 500]
            known = queries.states(store, some)
            for id in some:
                if known.get(id) in FINAL or (id not in known and stored[id] < clock.now() - FORGOTTEN):
                    checkpoints.delete(spool_dir, id)
        ids = running.job_ids(spool_dir)
        for at in range(0, len(ids), 500):
            for id, state in queries.states(store, ids[at : at + 500]).items():
                if state is not State.RUNNING:
                    running.delete(spool_dir, id)


def delete(store: Database, roots: Iterable[str], states: Iterable[State], before: float, limit: int) -> int:
    """Forget up to ``limit`` jobs that ended in ``states`` before ``before`` (unix time); returns how many."""
    return prune(store, states, before, limit, file_exists=_in(roots))


def delete_dead(store: Database, root: str, before: float, limit: int) -> int:
    """Forget up to ``limit`` jobs that died before ``before`` (unix time), file and record; returns how many."""
    gone = dead.delete_older(root, before, limit)
    return max(gone, delete(store, [root], (State.DEAD,), before, limit))


def prune(
    store: Database,
    states: Iterable[State],
    before: float,
    limit: int,
    *,
    file_exists: FileExists = lambda id, file: False,
) -> int:
    """Delete the rows and events of jobs that ended long ago, the oldest first.

    Args:
        store: Where they are recorded.
        states: Only jobs that ended in these states.
        before: Only jobs that ended before then, in unix seconds (UTC).
        limit: How many jobs at most.
        file_exists: Whether a job still has a file: such a job is kept, because its file would be a new job.

    Returns:
        How many jobs were deleted.
    """
    ids: list[str] = []
    with store.transaction() as db:
        for state in states:
            found = db.execute(
                "SELECT id, file FROM jobs WHERE state = ? AND finished_at < ? ORDER BY finished_at LIMIT ?",
                (state.value, before, limit - len(ids)),
            ).fetchall()
            ids += [row["id"] for row in found if not file_exists(row["id"], row["file"])]
        for id in ids:
            db.execute("DELETE FROM events WHERE job = ?", (id,))
            db.execute("DELETE FROM jobs WHERE id = ?", (id,))
    return len(ids)


def _in(roots: Iterable[str]) -> FileExists:
    """Whether a job's file lies in one of the spool directories: killed at the wrong moment, it outlives its end."""
    folders = []
    for root in roots:
        folders.append(root)
        with contextlib.suppress(OSError):
            folders += spoolfile.priority_folders(root)
    return lambda id, file: any(spoolfile.find(folder, id, file) for folder in folders)
