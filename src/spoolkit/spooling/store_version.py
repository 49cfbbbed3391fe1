"""Has a newer version of spoolkit written the store? Then a spooler starts no job: it could not record it.

After a roll-back of the store, or an update of spoolkit, it goes on by itself.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from spoolkit.errors import NewerStoreError
from spoolkit.store import locations
from spoolkit.system import log

PAUSE = 3.0
"""Seconds between two looks at a store that is newer."""


@dataclass
class _ThisProcess:
    """What this spooler knows of the store."""

    #: When it looks at the store again, on the monotonic clock. ``None``: once a claim finds that the store is newer.
    next_look: float | None = None


this_process = _ThisProcess()


def look() -> bool:
    """Look at the store. Returns whether it is newer, which is logged once."""
    try:
        locations.store().check_version()
    except NewerStoreError as error:
        found(error)
        return True
    if this_process.next_look is not None:
        this_process.next_look = None
        log.warning("spooler %d starts jobs again: the store is one of this version", os.getpid())
    return False


def found(error: NewerStoreError) -> None:
    """Start no job from here on until the store is one of this version."""
    if this_process.next_look is None:
        text = "spooler %d starts no job, and looks again every %g s. Jobs are accepted meanwhile, and wait: %s"
        log.error(text, os.getpid(), PAUSE, error)
    this_process.next_look = time.monotonic() + PAUSE


def is_newer() -> bool:
    """Return whether no job may start because of the store, which is looked at every :data:`PAUSE` seconds then."""
    next_look = this_process.next_look
    return next_look is not None and (time.monotonic() < next_look or look())


def warn() -> None:
    """Log it in a process that only accepts jobs and reads what became of them."""
    try:
        locations.store().check_version()
    except NewerStoreError as error:
        log.warning("process %d accepts jobs, which wait, and cannot read their records: %s", os.getpid(), error)
