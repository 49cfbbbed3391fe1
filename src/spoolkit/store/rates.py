"""When may a job start whose task has a rate? Each job takes a slot; a key has one row, with two times and no count.

Slots come one ``interval`` after the other, but as many as ``burst`` at once after a pause (the generic cell rate
algorithm, GCRA). The first claim of a job reserves the next free slot, and the job is put off to exactly that time: no
job is woken for a slot that another one takes. Where nothing could start for a while, as after a downtime, many slots
have passed. They must not be used at once: a start that is late by more than an interval counts at the time when it
comes, and the jobs after it move on as much.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from spoolkit.store.database import Database


class Pace(NamedTuple):
    """What the rate of a task says of a job."""

    #: The key of the rate.
    key: str
    #: Seconds from one slot to the next.
    interval: float
    #: How many slots there are at once after a pause.
    burst: int = 1


class Slot(NamedTuple):
    """When a job may start."""

    #: Unix time in seconds (UTC).
    time: float
    #: Whether it counts among the starts already. Otherwise it is reserved, and is counted when the job starts.
    is_counted: bool = False


class Known(NamedTuple):
    """What is known of a key: the time from which a whole interval is free again, in unix seconds (UTC)."""

    #: After all reservations.
    reserved: float = 0.0
    #: After all starts.
    started: float = 0.0


def decide(pace: Pace, known: Known, slot: Slot | None, now: float) -> tuple[Slot | None, Known]:
    """Return the slot for which a job has to wait, ``None`` if it may start now; and what is known of its key then.

    Args:
        pace: The rate.
        known: What is known of the key.
        slot: The slot that the job has; ``None``: it has none yet.
        now: The time, in unix seconds (UTC).
    """
    interval, ahead = pace.interval, (pace.burst - 1) * pace.interval
    if slot is None:
        slot = Slot(max(known.reserved - ahead, now))
        known = known._replace(reserved=max(known.reserved, now) + interval)
    if slot.time > now:
        return slot, known
    is_late = now - slot.time > interval
    if slot.is_counted and not is_late:
        return None, known
    # By its slot, if it is not late: otherwise the delays of all starts would add up.
    begin = now if is_late else slot.time
    free = known.started - ahead
    known = known._replace(started=max(known.started, begin) + interval)
    return (None if free <= now else Slot(free, is_counted=True)), known


CLOCK_TOLERANCE = 60.0
"""Seconds by which the times of two processes may differ: one that waits for the lock of the store asks before that."""


def corrected(known: Known, seen: float, slot: Slot | None, now: float) -> tuple[Known, Slot | None]:
    """Return what is known of a key, and the slot of a job, without what a clock has said that was far ahead.

    Args:
        known: What is known of the key.
        seen: When that was last changed, by the clock of that time.
        slot: The slot that the job has.
        now: The time.
    """
    if seen > now + CLOCK_TOLERANCE:
        # The clock was put back since, at least by this much. Without a correction nothing would start for as long.
        known = Known(known.reserved - (seen - now), known.started - (seen - now))
    if slot is not None and slot.time > max(now, *known):
        slot = None  # each slot is before what was known after it was given
    return known, slot


def take(db: sqlite3.Connection, pace: Pace, slot: Slot | None, now: float) -> Slot | None:
    """Do as :func:`decide`, within the transaction that claims the job."""
    row = db.execute("SELECT reserved, started, seen FROM rates WHERE key = ?", (pace.key,)).fetchone()
    before, seen = (Known(), now) if row is None else (Known(row["reserved"], row["started"]), row["seen"])
    slot, after = decide(pace, *corrected(before, seen, slot, now), now)
    if after != before:
        db.execute(
            "INSERT INTO rates (key, reserved, started, seen) VALUES (?, ?, ?, ?) ON CONFLICT (key)"
            " DO UPDATE SET reserved = excluded.reserved, started = excluded.started, seen = excluded.seen",
            (pace.key, *after, now),
        )
    return slot


def delete_idle(store: Database, now: float) -> None:
    """Delete the rows that say nothing any more: all intervals are free. Raises :class:`StoreUnavailableError`."""
    if store.read("SELECT 1 FROM rates WHERE reserved < ? AND started < ? LIMIT 1", (now, now)):
        with store.transaction() as db:
            db.execute("DELETE FROM rates WHERE reserved < ? AND started < ?", (now, now))
