"""The figures: what waits, what runs, how much was done in the last hour and how long it took."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass

from spoolkit import clock, lookup, tracking
from spoolkit.job import State

HOUR = 3600.0

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Statistics:
    """``counts`` by task and state; ages and durations in seconds, ``None`` where there is nothing to measure.

    ``oldest_due``  how long the oldest job that is due has been waiting
    ``done``        how many jobs were done in the last hour
    ``percentiles`` how long those took at most, so many per cent of them
    """

    counts: dict[tuple[str, str], int]
    oldest_due: float | None
    done: int
    percentiles: dict[int, float]


def gather() -> Statistics:
    """The figures of now."""
    now = clock.now()
    counts: Counter[tuple[str, str]] = Counter()
    for status in lookup.jobs():
        counts[status.task or "?", str(status.state)] += 1
    took = lookup.known_of(lambda: tracking.store().durations(now - HOUR)) or []
    return Statistics(dict(sorted(counts.items())), _oldest_due(now), len(took), _percentiles(took))


def _oldest_due(now: float) -> float | None:
    running = {status.id for status in lookup.jobs(states=(State.RUNNING,))}
    due = []
    for path in lookup.pending():
        if lookup.id_of(path) not in running:
            with contextlib.suppress(OSError):
                due.append(os.lstat(path).st_mtime)
    oldest = min(due, default=now)
    return now - oldest if oldest < now else None


def _percentiles(ascending: list[float]) -> dict[int, float]:
    if not ascending:
        return {}
    return {share: ascending[min(len(ascending) - 1, len(ascending) * share // 100)] for share in PERCENTILES}
