"""The end of what a process runs because its server stops: it counts for nothing, and runs again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from spoolkit.job import Progress, State
from spoolkit.store import rows
from spoolkit.store.database import Database
from spoolkit.system import clock, files, process

Left = Callable[[str, str | None], tuple[Progress | None, str]]
"""What a job left behind, by its id and its queue."""

MESSAGE = "the server stopped before it was done"


PATIENCE = 2.0
"""Seconds that a stop waits for a store that another process has locked."""

_PREFIX = "stopped."


def interrupt(
    store: Database, pids: Iterable[int], *, kill: Callable[[int], None], left: Left
) -> list[tuple[str, str | None]]:
    """End what these processes run, and record their attempts as interrupted; returns each job's id and queue.

    ``kill`` gets the pid if the process lives; nobody can settle the job meanwhile. ``left`` gives the progress and the
    log that a job leaves behind. Raises :class:`StoreUnavailableError` within :data:`PATIENCE` seconds, however many
    processes there are.
    """
    now = clock.now()
    jobs: list[tuple[str, str | None]] = []
    with store.transaction(PATIENCE) as db:
        for pid in pids:
            found = db.execute("SELECT * FROM jobs WHERE state = 'running' AND pid = ?", (pid,)).fetchall()
            for row in found:
                if rows.is_running(row):
                    kill(pid)
                after = State.CANCELLED if row["cancel"] else State.RETRYING
                columns: dict[str, Any] = {"pid": None, "identity": None}
                progress, log = left(row["id"], row["queue"])
                if progress is not None:
                    columns["progress"] = rows.progress_text(progress)
                columns.update(run_at=now, base=row["base"] + 1, max_attempts=row["max_attempts"] + 1)
                columns.update(ending="interrupted", error_message=MESSAGE)
                rows.move(db, row["id"], State.RUNNING, after, now, columns)
                took, detail = now - row["started_at"], {"message": MESSAGE}
                rows.add_event(db, row["id"], "interrupted", now, row["attempt"], took, detail, log)
                jobs.append((row["id"], row["queue"]))
    return jobs


def mark(spool_dir: str, pid: int, identity: bytes | None = None) -> None:
    """Say beside the store, which cannot be written, that a stop kills this process. Raises ``OSError``.

    Of a dead process, nothing is said, unless its ``identity`` is known from when it lived: another one that stops it
    was faster, and its mark must stay as it is.
    """
    identity = process.identity(pid) if identity is None else identity
    if identity.split()[0].isdigit():
        files.make_folder(os.path.join(spool_dir, files.SPOOLERS))
        files.write(_mark_of(spool_dir, pid), identity)


def was_marked(spool_dir: str, pid: int, identity: bytes) -> bool:
    """Whether a stop has killed this process, by its :func:`mark`."""
    try:
        return files.read(_mark_of(spool_dir, pid)) == identity
    except OSError:
        return False


def unmark(spool_dir: str, pid: int) -> None:
    """Remove the :func:`mark` of this process, once the store knows what it said."""
    files.remove(_mark_of(spool_dir, pid))


def sweep(store: Database, spool_dir: str) -> None:
    """Remove the marks of processes of which no job is recorded as running. Raises :class:`StoreUnavailableError`."""
    for pid in _marked(spool_dir):
        found = store.read("SELECT identity FROM jobs WHERE state = 'running' AND pid = ?", (pid,))
        if not any(was_marked(spool_dir, pid, row["identity"]) for row in found):
            unmark(spool_dir, pid)


def _marked(spool_dir: str) -> list[int]:
    try:
        names = os.listdir(os.path.join(spool_dir, files.SPOOLERS))
    except OSError:
        return []
    pids = (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
    return [int(pid) for pid in pids if pid.isascii() and pid.isdigit()]


def _mark_of(spool_dir: str, pid: int) -> str:
    return os.path.join(spool_dir, files.SPOOLERS, f"{_PREFIX}{pid}")
