"""How one job's row and its events are written, and which moves between states are allowed."""

from __future__ import annotations

import json
import sqlite3
from functools import lru_cache
from typing import Any

from spoolkit.job import FINISHED, MOVES, Progress, State
from spoolkit.system import process


class ForbiddenMoveError(Exception):
    """A job was to be moved into a state that :data:`~spoolkit.job.MOVES` does not allow."""


def find(db: sqlite3.Connection, id: str) -> sqlite3.Row | None:
    """Return the row of the job ``id``, or ``None`` if it has none."""
    row: sqlite3.Row | None = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
    return row


def insert(db: sqlite3.Connection, id: str, state: State, now: float, columns: dict[str, Any]) -> bool:
    """Add the row of the job ``id``, whose state is ``state`` from ``now`` (unix seconds) on.

    Returns:
        Whether it was added: not if the job has a row.
    """
    columns = {"id": id, "attempt": 0, "base": 0, **_state_columns(state, now), **columns}
    return db.execute(_insertion(tuple(columns)), _values(columns)).rowcount == 1


# The same text each time, so that SQLite has it prepared.


@lru_cache
def _insertion(names: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(names))
    return f"INSERT INTO jobs ({', '.join(names)}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"  # noqa: S608 - ours


@lru_cache
def _change(names: tuple[str, ...]) -> str:
    return f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?"  # noqa: S608 - names of ours


def may_move(row: sqlite3.Row, after: State) -> bool:
    """Return whether the job of ``row`` may be moved into the state ``after``."""
    return after in MOVES[State(row["state"])]


def move(
    db: sqlite3.Connection, id: str, before: State, after: State, now: float, columns: dict[str, Any] | None = None
) -> None:
    """Move the job ``id`` from the state ``before`` to ``after`` at ``now`` (unix seconds), and change ``columns``.

    Raises:
        ForbiddenMoveError: :data:`~spoolkit.job.MOVES` does not allow it; nothing is changed.
    """
    if after not in MOVES[before]:
        raise ForbiddenMoveError(f"job {id} may not become {after}: it is {before}")
    update(db, id, {**_state_columns(after, now), **(columns or {})})


def update(db: sqlite3.Connection, id: str, columns: dict[str, Any]) -> None:
    """Change these columns of the job ``id``, but for its state: see :func:`move`."""
    db.execute(_change(tuple(columns)), (*_values(columns), id))


def end_attempt(
    db: sqlite3.Connection,
    id: str,
    attempt: int,
    after: State,
    now: float,
    columns: dict[str, Any],
    *,
    unless_cancelled: bool = False,
) -> bool:
    """Move the job ``id`` from ``running`` to ``after`` at ``now`` (unix seconds), and change ``columns``.

    One statement, where :func:`find` and :func:`move` would be two.

    Args:
        attempt: The attempt that must be running.
        unless_cancelled: Whether nothing is changed if somebody has asked the job to stop.

    Returns:
        Whether that attempt was running.
    """
    if after not in MOVES[State.RUNNING]:
        raise ForbiddenMoveError(f"job {id} may not become {after}: it is running")
    columns = {**_state_columns(after, now), **columns}
    condition = " AND state = 'running' AND attempt = ?" + (" AND NOT cancel" if unless_cancelled else "")
    return db.execute(_change(tuple(columns)) + condition, (*_values(columns), id, attempt)).rowcount == 1


def add_event(
    db: sqlite3.Connection,
    id: str,
    kind: str,
    time: float,
    attempt: int | None = None,
    seconds: float | None = None,
    detail: dict[str, Any] | None = None,
    log: str = "",
    *,
    ends_attempt: bool = False,
) -> None:
    """Add an event to the history of the job ``id``.

    Args:
        db: The connection, within a transaction.
        id: The job.
        kind: What happened: ``started``, one of :data:`~spoolkit.store.queries.ENDINGS`, or what a person did.
        time: When, in unix seconds (UTC).
        attempt: The attempt that the event belongs to.
        seconds: How long the attempt took, if the event ends it.
        detail: Kept as JSON, without the values that are ``None``.
        log: What the attempt printed and logged.
        ends_attempt: Whether ``seconds`` are counted from the start that the job's row has.
    """
    known = {key: value for key, value in (detail or {}).items() if value is not None}
    text = encodable(json.dumps(known)) if known else None
    db.execute(
        _ENDING if ends_attempt else _EVENT,
        {
            "job": id,
            "time": time,
            "kind": kind,
            "attempt": attempt,
            "seconds": seconds,
            "detail": text,
            "log": encodable(log) or None,
        },
    )


_EVENT = (
    "INSERT INTO events (job, seq, time, kind, attempt, seconds, detail, log)"
    " VALUES (:job, (SELECT coalesce(max(seq), 0) + 1 FROM events WHERE job = :job),"
    " :time, :kind, :attempt, :seconds, :detail, :log)"
)
_ENDING = _EVENT.replace(":seconds", ":time - (SELECT started_at FROM jobs WHERE id = :job)")


def is_running(row: sqlite3.Row) -> bool:
    """Return whether the process that runs the job of ``row`` is alive."""
    return row["state"] == State.RUNNING and process.is_alive(row["pid"], row["identity"])


def progress_text(progress: Progress) -> str:
    """Return ``progress`` as the column of that name holds it."""
    return json.dumps([progress.done, progress.total, progress.note])


def encodable(text: str) -> str:
    """Return ``text`` with escapes for what SQLite refuses."""
    # SQLite's text is UTF-8: half a surrogate pair, as in the name of a file, would be refused.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _state_columns(state: State, now: float) -> dict[str, Any]:
    return {"state": state.value, "finished_at": now if state in FINISHED else None}


def _values(columns: dict[str, Any]) -> list[Any]:
    return [encodable(value) if isinstance(value, str) else value for value in columns.values()]
