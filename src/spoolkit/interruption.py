"""The end of what a process runs because its server stops: it counts for nothing, and runs again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spoolkit import claims, clock
from spoolkit.database import event, update
from spoolkit.job import Progress, State
from spoolkit.store import Store, progress_text

Left = Callable[[str], tuple[Progress | None, str]]

MESSAGE = "the server stopped before it was done"


def interrupt(store: Store, pid: int, *, kill: Callable[[int], None], left: Left) -> list[str]:
    """End what the process ``pid`` runs, and record its attempts as interrupted; returns the jobs.

    ``kill`` gets the pid if the process lives; nobody can settle the job meanwhile. ``left`` gives the progress and the
    log that a job leaves behind. Raises :class:`StoreUnavailableError`.
    """
    now = clock.now()
    with store.transaction() as db:
        rows = db.execute("SELECT * FROM jobs WHERE state = 'running' AND pid = ?", (pid,)).fetchall()
        for row in rows:
            if claims.is_running(row):
                kill(pid)
            state, ended = (State.CANCELLED, now) if row["cancel"] else (State.RETRYING, None)
            given: dict[str, Any] = {"state": state.value, "finished_at": ended, "pid": None, "identity": None}
            progress, log = left(row["id"])
            if progress is not None:
                given["progress"] = progress_text(progress)
            given.update(run_at=now, base=row["base"] + 1, max_attempts=row["max_attempts"] + 1)
            update(db, row["id"], {**given, "ending": "interrupted", "error_message": MESSAGE})
            took, said = now - row["started_at"], {"message": MESSAGE}
            event(db, row["id"], "interrupted", now, row["attempt"], took, said, log)
    return [row["id"] for row in rows]
