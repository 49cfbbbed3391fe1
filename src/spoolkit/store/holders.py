"""How many jobs run under a limit? Those that are recorded as running, and whose process is alive and still at it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from spoolkit.store.database import Database
from spoolkit.store.rates import Pace
from spoolkit.system import process

HasLeft = Callable[[int, bytes, str, str | None], bool]
"""Whether the process with a pid and an identity, which is alive, has gone on from the job with an id and a queue: it
could not record the end of that job."""


class Room(NamedTuple):
    """What the limit and the rate of a job allow."""

    #: The key of the limit; ``None``: it has none.
    key: str | None
    #: How many jobs with this key run at once, at most.
    number: int
    #: Whether a job is over although it is recorded as running.
    has_left: HasLeft = lambda pid, identity, id, queue: False
    #: The rate; ``None``: it has none.
    pace: Pace | None = None


_RUNNING = "SELECT id, queue, pid, identity FROM jobs WHERE limit_key = ? AND state = 'running'"
"""Spelled as in the index ``jobs_of_limits``: SQLite uses it only then."""


def is_free(store: Database, room: Room) -> int:
    """Return how many more jobs with the key of ``room`` may run now; zero or less: none."""
    return room.number - _count(store.read(_RUNNING, (room.key,)), room.has_left)


def has_room(db: sqlite3.Connection, room: Room, id: str) -> bool:
    """Return whether the job ``id`` may run now, within the transaction that claims it."""
    if room.key is None:
        return True
    others = [row for row in db.execute(_RUNNING, (room.key,)).fetchall() if row["id"] != id]
    return _count(others, room.has_left) < room.number


def living(store: Database, has_left: HasLeft) -> Counter[str]:
    """Return how many jobs run now, by the keys of their limits."""
    rows = store.read(
        "SELECT id, queue, pid, identity, limit_key FROM jobs WHERE limit_key IS NOT NULL AND state = 'running'"
    )
    return Counter(row["limit_key"] for row in rows if _is_at_it(row, has_left))


def _count(rows: Iterable[sqlite3.Row], has_left: HasLeft) -> int:
    return sum(_is_at_it(row, has_left) for row in rows)


def _is_at_it(row: sqlite3.Row, has_left: HasLeft) -> bool:
    pid, identity = row["pid"], row["identity"]
    return process.is_alive(pid, identity) and not has_left(pid, identity, row["id"], row["queue"])
