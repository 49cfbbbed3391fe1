"""Is there room for another job in a spool directory? Found out by counting its files, but seldom.

Nothing is remembered but for moments, so there is no number that could be wrong for long. A process counts, and then
accepts some jobs without counting again: a small part of what was left, so that many processes together stay near the
limit. A directory that was full is believed to be so for a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from spoolkit.spooldir import chunks, spoolfile
from spoolkit.system.process import PerProcess

PART = 64
"""One part in so many of what is left is accepted without counting again."""

OVER = 100
"""One part in so many of the limit is accepted without counting again, even if less is left."""

BELIEVED = 1.0
"""Seconds for which the result of a count is believed."""


@dataclass
class _Counted:
    """What one count of a directory has found."""

    #: How many jobs there were, up to the limit.
    waiting: int
    #: How many more are accepted without counting again; none if the directory was full.
    left: int
    #: Until when this is believed, on the monotonic clock.
    until: float


_counted = PerProcess[dict[tuple[str, int], _Counted]](dict)
_lock = PerProcess(threading.Lock)


def take(spool_dir: str, limit: int, number: int = 1) -> int | None:
    """Take room for ``number`` jobs.

    Args:
        spool_dir: The spool directory.
        limit: How many jobs may be in it that are not over: those that wait, are delayed or run.
        number: How many are to be accepted.

    Returns:
        ``None`` if there is room; otherwise how many jobs there were, up to the limit.

    Raises:
        OSError: The directory cannot be read.
    """
    with _lock.get():
        known, key, now = _counted.get(), (spool_dir, limit), time.monotonic()
        found = known.get(key)
        if found is None or now >= found.until or (found.left < number and found.waiting < limit):
            waiting = count(spool_dir, limit)
            room = limit - waiting
            left = max(number, room // PART, limit // OVER) if room >= number else 0
            found = known[key] = _Counted(waiting, left, now + BELIEVED)
        if found.left < number:
            return found.waiting
        found.left -= number
        return None


def count(spool_dir: str, limit: int) -> int:
    """Count the jobs of a spool directory that are not over, up to ``limit``. Raises ``OSError``."""
    try:
        paths = spoolfile.pending(spool_dir, limit)
    except FileNotFoundError:
        return 0  # the first job makes it
    return min(limit, _jobs_of(paths))


def due(spool_dir: str, limit: int) -> int:
    """Count the jobs that are due or run, up to ``limit``: those that spoolers look for. Raises ``OSError``."""
    try:
        return min(limit, _jobs_of(spoolfile.in_place(spool_dir, limit)))
    except FileNotFoundError:
        return 0


def _jobs_of(paths: Iterable[str]) -> int:
    return sum(len(chunks.ids(path)) if chunks.is_chunk(path) else 1 for path in paths)
