"""What is recorded of jobs? This module only reads.

Each raises :class:`StoreUnavailableError` if the store cannot be read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from spoolkit.job import Attempt, Ending, Event, Progress, State, Status
from spoolkit.store import rows, search
from spoolkit.store.database import Database
from spoolkit.store.search import Search

ENDINGS = frozenset({"done", "lost", *get_args(Ending)})
"""The kinds of events that end an attempt."""

# All columns but the blobs: many results at once may be a gigabyte.
_WITHOUT_BLOBS = (
    "id, task, engine, queue, file, state, attempt, max_attempts, enqueued_at, run_at, expires_at, started_at,"
    " finished_at, pid, identity, progress, NULL AS result, result_error, error_type, error_message, ending, cancel,"
    " options, limit_key, slot"
)


_WAITING = frozenset({State.QUEUED.value, State.RETRYING.value})
"""The states in which a job may wait for its slot."""


@dataclass
class Costs:
    """What jobs of one task took."""

    #: The run times in seconds, ascending.
    seconds: list[float] = field(default_factory=list)
    #: The most processor time of one of them, in seconds; ``None``: it is not known.
    cpu: float | None = None
    #: The most memory of one of them, in bytes; ``None``: it is not known.
    memory: int | None = None


def status(store: Database, id: str) -> Status | None:
    """Return what is recorded of the job ``id``; ``None`` if nothing is."""
    found = store.read("SELECT * FROM jobs WHERE id = ?", (id,))
    return _status_of(found[0]) if found else None


def arguments(store: Database, id: str) -> bytes | None:
    """Return the arguments of the job ``id`` in the codec's bytes, if they were small enough to be kept."""
    found = store.read("SELECT arguments FROM jobs WHERE id = ?", (id,))
    return found[0]["arguments"] if found else None


def states(store: Database, ids: list[str]) -> dict[str, State]:
    """Return the recorded state of those of ``ids`` (a thousand at most) that are recorded."""
    sql = f"SELECT id, state FROM jobs WHERE id IN ({_placeholders(ids)})"  # noqa: S608 - placeholders only
    return {row["id"]: State(row["state"]) for row in store.read(sql, tuple(ids))}


def ids(store: Database, prefix: str, limit: int) -> list[str]:
    """Return the newest ``limit`` ids that begin with ``prefix``."""
    sql = "SELECT id FROM jobs WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?"
    return [row["id"] for row in store.read(sql, (prefix, f"{prefix}\U0010ffff", limit))]


def statuses(
    store: Database,
    *,
    states: Iterable[State] = (),
    tasks: Sequence[str] = (),
    tag: str | None = None,
    since: float | None = None,
    before: str = "",
    limit: int | None = None,
    also: Search | None = None,
) -> list[Status]:
    """Return the recorded jobs, newest first, without their results.

    Args:
        store: Where they are recorded.
        states: Only jobs in these states; none given: in any.
        tasks: Only jobs of a task that has, or had, one of these names; none given: of any.
        tag: Only jobs with this tag.
        since: Only jobs enqueued since then, in unix seconds (UTC).
        before: Only jobs whose id is less than this one; empty: all.
        limit: How many at most; ``None``: all.
        also: What else they must be like; ``None``: nothing.
    """
    where, values = ["1"], list[object]()
    if wanted := [state.value for state in states]:
        # Of the done jobs there are many: with the +, SQLite goes through the ids, and stops at the limit.
        # And those with a tag are few.
        column = "+state" if tag is not None or (State.DONE in wanted and not tasks) else "state"
        where.append(f"{column} IN ({_placeholders(wanted)})")
        values += wanted
    if tasks:
        where.append(f"task IN ({_placeholders(list(tasks))})")
        values += tasks
    if tag is not None:
        where.append("id IN (SELECT job FROM job_tags WHERE tag = ?)")
        values.append(tag)
    if before:
        where.append("id < ?")
        values.append(before)
    if since is not None:
        where.append("enqueued_at >= ?")
        values.append(since)
    if also is not None:
        more, more_values = search.clauses(also)
        where += more
        values += more_values
    # The inner query needs the index alone: to sort the rows themselves, SQLite would read all of them with results.
    newest = f"SELECT rowid FROM jobs WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"  # noqa: S608 - placeholders only
    sql = f"SELECT {_WITHOUT_BLOBS} FROM jobs WHERE rowid IN ({newest}) ORDER BY id DESC"  # noqa: S608 - as above
    return [_status_of(row) for row in store.read(sql, (*values, -1 if limit is None else limit))]


def statuses_of(store: Database, ids: Sequence[str]) -> list[Status]:
    """Return what is recorded of the jobs ``ids`` (a thousand at most), newest first, without their results."""
    where = f"id IN ({_placeholders(list(ids))})"
    found = store.read(f"SELECT {_WITHOUT_BLOBS} FROM jobs WHERE {where} ORDER BY id DESC", tuple(ids))  # noqa: S608 - placeholders only
    return [_status_of(row) for row in found]


def deaths(store: Database, until: float, limit: int) -> list[tuple[Status, str | None]]:
    """Return the jobs that died last, each with the traceback of its last attempt; ``None``: there is none.

    Args:
        store: Where they are recorded.
        until: Only those that had died by then, in unix seconds (UTC).
        limit: How many at most.
    """
    last = "SELECT detail FROM events WHERE job = jobs.id AND attempt = jobs.attempt AND kind = jobs.ending"
    sql = (
        f"SELECT {_WITHOUT_BLOBS}, ({last}) AS detail FROM jobs"  # noqa: S608 - no values
        " WHERE state = 'dead' AND finished_at <= ? ORDER BY finished_at DESC LIMIT ?"
    )
    found = store.read(sql, (until, limit))
    return [(_status_of(row), json.loads(row["detail"] or "{}").get("traceback")) for row in found]


def history(store: Database, id: str, newest: int | None = None) -> tuple[list[Attempt], list[Event]]:
    """Return the attempts of the job ``id``, and what else happened to it, both in order.

    Args:
        store: Where they are recorded.
        id: The job.
        newest: How many of its events are read, the newest ones; ``None``: all. An attempt has two.
    """
    attempts: dict[int, Attempt] = {}
    others: list[Event] = []
    for event in events(store, id, newest):
        number, detail = event.attempt, json.loads(event.detail or "{}")
        if event.kind == "started" and number is not None:
            attempts[number] = Attempt(number, event.time, pid=detail.get("pid"), waited=detail.get("waited"))
        elif event.kind in ENDINGS and number in attempts:
            begun = attempts[number]
            attempts[number] = Attempt(
                number,
                begun.started_at,
                event.time,
                event.kind,
                begun.pid,
                detail.get("type"),
                detail.get("message"),
                detail.get("traceback"),
                event.log or "",
                begun.waited,
                detail.get("cpu"),
                detail.get("memory"),
            )
        else:
            others.append(Event(event.time, event.kind, *map(detail.get, ("by", "message", "job"))))
    return list(attempts.values()), others


def events(store: Database, id: str, newest: int | None = None) -> list[rows.EventRow]:
    """Return the events of the job ``id`` in order, also those that only its row tells: all, or the newest ones."""
    # In this order: events that are added between the two questions include what the row told before.
    job = store.read("SELECT * FROM jobs WHERE id = ?", (id,))
    sql = "SELECT time, kind, attempt, seconds, detail, log FROM events WHERE job = ? ORDER BY seq DESC LIMIT ?"
    written = [rows.EventRow(*row) for row in reversed(store.read(sql, (id, -1 if newest is None else newest)))]
    return written or [event for row in job for event in rows.derived_events(row)]


def counts(store: Database, states: Iterable[State], *, engine: str | None = None) -> dict[tuple[str, State], int]:
    """Return how many jobs are in ``states``, by task and state: those of one engine, or of all."""
    wanted = [state.value for state in states]
    where = f"state IN ({_placeholders(wanted)})" + (" AND engine = ?" if engine else "")
    sql = f"SELECT task, state, count(*) AS n FROM jobs WHERE {where} GROUP BY task, state"  # noqa: S608 - placeholders only
    values = (*wanted, engine) if engine else tuple(wanted)
    return {(row["task"], State(row["state"])): row["n"] for row in store.read(sql, values)}


def count_of(store: Database, state: State) -> int:
    """Return how many jobs are recorded in a state."""
    found = store.read("SELECT count(*) AS n FROM jobs WHERE state = ?", (state.value,))
    return found[0]["n"] if found else 0


def done_since(store: Database, since: float) -> int:
    """Return how many jobs were done after ``since`` (unix seconds, UTC)."""
    found = store.read("SELECT count(*) AS n FROM jobs WHERE state = 'done' AND finished_at > ?", (since,))
    return found[0]["n"] if found else 0


def ends_by_minute(store: Database, since: float, states: Iterable[State]) -> dict[tuple[int, State], int]:
    """Return how many jobs ended after ``since`` (unix seconds, UTC), by the minute from then on, from 0, and state."""
    wanted = [state.value for state in states]
    minute = "CAST((finished_at - ?) / 60 AS INTEGER) AS minute"
    where = f"state IN ({_placeholders(wanted)}) AND finished_at > ?"
    sql = f"SELECT {minute}, state, count(*) AS n FROM jobs WHERE {where} GROUP BY minute, state"  # noqa: S608 - placeholders only
    found = store.read(sql, (since, *wanted, since))
    return {(row["minute"], State(row["state"])): row["n"] for row in found}


def ends_by_task(store: Database, since: float, states: Iterable[State]) -> dict[tuple[str, State], int]:
    """Return how many jobs ended after ``since`` (unix seconds, UTC), by task and state."""
    wanted = [state.value for state in states]
    where = f"state IN ({_placeholders(wanted)}) AND finished_at > ?"
    sql = f"SELECT task, state, count(*) AS n FROM jobs WHERE {where} GROUP BY task, state"  # noqa: S608 - placeholders only
    return {(row["task"], State(row["state"])): row["n"] for row in store.read(sql, (*wanted, since))}


def costs_by_task(store: Database, since: float, limit: int) -> dict[str, Costs]:
    """Return what the ``limit`` latest jobs took that were done after ``since`` (unix seconds, UTC), by task."""
    found: dict[str, Costs] = {}
    for row in store.read(
        "SELECT task, finished_at - started_at AS seconds, cpu, memory FROM jobs"
        " WHERE state = 'done' AND finished_at > ? ORDER BY finished_at DESC LIMIT ?",
        (since, limit),
    ):
        one = found.setdefault(row["task"], Costs())
        one.seconds.append(row["seconds"])
        if row["cpu"] is not None:
            one.cpu = max(one.cpu or 0.0, row["cpu"])
        if row["memory"] is not None:
            one.memory = max(one.memory or 0, row["memory"])
    for one in found.values():
        one.seconds.sort()
    return found


def memory_by_task(store: Database, since: float, limit: int) -> dict[str, int]:
    """Return the most bytes of memory that one of these jobs took, by task, where it is known.

    Args:
        store: Where they are recorded.
        since: Only jobs that were done after then, in unix seconds (UTC).
        limit: Only so many, the latest ones.
    """
    found = store.read(
        "SELECT task, max(memory) AS memory FROM (SELECT task, memory FROM jobs"
        " WHERE state = 'done' AND finished_at > ? ORDER BY finished_at DESC LIMIT ?)"
        " WHERE memory IS NOT NULL GROUP BY task",
        (since, limit),
    )
    return {row["task"]: row["memory"] for row in found}


def durations(store: Database, since: float, limit: int) -> list[float]:
    """Return how many seconds the ``limit`` latest jobs took that were done after ``since`` (unix seconds), sorted."""
    found = store.read(
        "SELECT finished_at - started_at AS seconds FROM jobs"
        " WHERE state = 'done' AND finished_at > ? ORDER BY finished_at DESC LIMIT ?",
        (since, limit),
    )
    return sorted(row["seconds"] for row in found)


def _placeholders(values: list[str]) -> str:
    return ", ".join("?" * len(values))


def _status_of(row: sqlite3.Row) -> Status:
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
        expires_at=row["expires_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        pid=row["pid"] if rows.is_running(row) else None,
        progress=Progress(*json.loads(row["progress"])) if row["progress"] else None,
        result=row["result"],
        result_error=row["result_error"],
        error_type=row["error_type"],
        error_message=row["error_message"],
        ending=row["ending"],
        cancel_asked=bool(row["cancel"]),
        **rows.read_options(row["options"]),
        limit_key=row["limit_key"],
        slot_at=row["slot"] if row["state"] in _WAITING else None,
    )
