"""What is recorded of jobs, read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import get_args

from spoolkit.job import Attempt, Ending, Event, Progress, State, Status
from spoolkit.store.database import Database
from spoolkit.system import process

ENDINGS = frozenset({"done", "lost", *get_args(Ending)})
"""The kinds of events that end an attempt."""


# All but the blobs: many results at once may be a gigabyte.
_SHORT = (
    "id, task, engine, queue, file, state, attempt, max_attempts, enqueued_at, run_at, started_at, finished_at, pid,"
    " identity, progress, NULL AS result, result_error, error_type, error_message, ending, cancel"
)


class Records(Database):
    """The jobs and what happened to them. Every question raises :class:`StoreUnavailableError`."""

    def status(self, id: str) -> Status | None:
        """What is recorded of the job ``id``."""
        rows = self.read("SELECT * FROM jobs WHERE id = ?", (id,))
        return status_of(rows[0]) if rows else None

    def arguments(self, id: str) -> bytes | None:
        """The arguments in the codec's bytes, if they are small enough to be kept."""
        rows = self.read("SELECT arguments FROM jobs WHERE id = ?", (id,))
        return rows[0]["arguments"] if rows else None

    def states(self, ids: list[str]) -> dict[str, State]:
        """The recorded state of each of ``ids`` (a thousand at most) that is known."""
        sql = f"SELECT id, state FROM jobs WHERE id IN ({', '.join('?' * len(ids))})"  # noqa: S608 - placeholders only
        return {row["id"]: State(row["state"]) for row in self.read(sql, tuple(ids))}

    def ids(self, prefix: str, limit: int) -> list[str]:
        """The newest ``limit`` ids that begin with ``prefix``."""
        sql = "SELECT id FROM jobs WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?"
        return [row["id"] for row in self.read(sql, (prefix, f"{prefix}\U0010ffff", limit))]

    def statuses(
        self,
        *,
        states: Iterable[State] = (),
        task: str | None = None,
        since: float | None = None,
        limit: int | None = None,
    ) -> list[Status]:
        """The jobs recorded, newest first, without their results."""
        where, values = ["1"], list[object]()
        if wanted := [state.value for state in states]:
            where.append(f"state IN ({', '.join('?' * len(wanted))})")
            values += wanted
        if task is not None:
            where.append("task = ?")
            values.append(task)
        if since is not None:
            where.append("enqueued_at >= ?")
            values.append(since)
        # Within, from the index alone: sorted as they are, the rows would all be read, results included.
        newest = f"SELECT rowid FROM jobs WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"  # noqa: S608 - placeholders only
        sql = f"SELECT {_SHORT} FROM jobs WHERE rowid IN ({newest}) ORDER BY id DESC"  # noqa: S608 - as above
        return [status_of(row) for row in self.read(sql, (*values, -1 if limit is None else limit))]

    def history(self, id: str) -> tuple[list[Attempt], list[Event]]:
        """The job's attempts, and whatever else happened to it, in order."""
        attempts: dict[int, Attempt] = {}
        events: list[Event] = []
        for row in self.read("SELECT * FROM events WHERE job = ? ORDER BY seq", (id,)):
            number, detail = row["attempt"], json.loads(row["detail"] or "{}")
            if row["kind"] == "started":
                attempts[number] = Attempt(number, row["time"], pid=detail.get("pid"))
            elif row["kind"] in ENDINGS and number in attempts:
                begun = attempts[number]
                attempts[number] = Attempt(
                    number,
                    begun.started_at,
                    row["time"],
                    row["kind"],
                    begun.pid,
                    detail.get("type"),
                    detail.get("message"),
                    detail.get("traceback"),
                    row["log"] or "",
                )
            else:
                events.append(Event(row["time"], row["kind"]))
        return list(attempts.values()), events

    def counts(self, states: Iterable[State]) -> dict[tuple[str, State], int]:
        """How many jobs are in ``states``, by task and state."""
        wanted = [state.value for state in states]
        where = f"state IN ({', '.join('?' * len(wanted))})"
        sql = f"SELECT task, state, count(*) AS n FROM jobs WHERE {where} GROUP BY task, state"  # noqa: S608 - placeholders only
        return {(row["task"], State(row["state"])): row["n"] for row in self.read(sql, tuple(wanted))}

    def done_since(self, since: float) -> int:
        """How many jobs were done after ``since`` (unix time)."""
        rows = self.read("SELECT count(*) AS n FROM jobs WHERE state = 'done' AND finished_at > ?", (since,))
        return rows[0]["n"] if rows else 0

    def durations(self, since: float, limit: int) -> list[float]:
        """The seconds that the ``limit`` latest jobs done after ``since`` (unix time) took, sorted."""
        rows = self.read(
            "SELECT finished_at - started_at AS seconds FROM jobs"
            " WHERE state = 'done' AND finished_at > ? ORDER BY finished_at DESC LIMIT ?",
            (since, limit),
        )
        return sorted(row["seconds"] for row in rows)


def status_of(row: sqlite3.Row) -> Status:
    """The status in a row of ``jobs``."""
    running = row["state"] == State.RUNNING
    return Status(
        id=row["id"],
        task=row["task"],
        state=State(row["state"]),
        engine=row["engine"],
        queue=row["queue"],
        file=row["file"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        enqueued_at=row["enqueued_at"],
        run_at=row["run_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        pid=row["pid"] if running and process.is_alive(row["pid"], row["identity"]) else None,
        progress=Progress(*json.loads(row["progress"])) if row["progress"] else None,
        result=row["result"],
        result_error=row["result_error"],
        error_type=row["error_type"],
        error_message=row["error_message"],
        ending=row["ending"],
        cancel_asked=bool(row["cancel"]),
    )
