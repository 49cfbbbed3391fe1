"""Old records are forgotten by the spoolers, a few between two jobs: never in a request's way."""

from __future__ import annotations

import time

from spoolkit import clock, losses, morgue
from spoolkit.errors import StoreUnavailableError
from spoolkit.job import State
from spoolkit.settings import Settings
from spoolkit.store import Store

PAUSE = 30.0
"""Seconds between two looks of one process."""

AT_ONCE = 200
"""Jobs that are forgotten in one look."""

_last = -PAUSE


def a_little(store: Store, root: str, config: Settings) -> None:
    """Forget some of what is old enough, if the last look is long ago. Never raises."""
    global _last
    if time.monotonic() - _last < PAUSE:
        return
    _last = time.monotonic()
    now = clock.now()
    try:
        losses.bury(store)
        store.prune((State.DONE, State.CANCELLED, State.LOST), now - config.keep_done, AT_ONCE)
        forget_dead(store, root, now - config.keep_dead, AT_ONCE)
    except (StoreUnavailableError, OSError):
        return  # whoever runs the next job complains


def forget_dead(store: Store, root: str, before: float, limit: int) -> int:
    """Forget up to ``limit`` jobs that died before ``before`` (unix time), file and record; returns how many."""
    files = morgue.discard(root, before, limit)
    return max(files, len(store.prune((State.DEAD,), before, limit)))
