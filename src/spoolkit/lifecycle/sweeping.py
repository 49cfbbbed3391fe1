"""What does a process that serves put right now and then, whatever a kill has left behind? Each sweep is added here.

Spoolers sweep at their start, and between two jobs; those of ``flask spool run`` also while they are idle. Under uWSGI,
where an idle spooler executes no Python, a thread of each HTTP process does it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from spoolkit.system import log
from spoolkit.system.process import PerProcess

INTERVAL = 30.0
"""Seconds between two sweeps of one process."""

_sweeps: list[Callable[[str], None]] = []

_last: PerProcess[dict[str, float]] = PerProcess(dict)
"""When this process last swept each spool directory, on the monotonic clock."""


def add(sweep: Callable[[str], None]) -> None:
    """Have ``sweep(spool_dir)`` called at each sweep. Added once, however often this is called with it."""
    if sweep not in _sweeps:
        _sweeps.append(sweep)


def run(spool_dir: str) -> None:
    """Sweep now. Never raises ``Exception``."""
    _last.get()[spool_dir] = time.monotonic()
    for sweep in _sweeps:
        try:
            sweep(spool_dir)
        except Exception as error:
            log.complain("the spool directory %s could not be swept, and is swept again later", spool_dir, error=error)


def is_due(spool_dir: str) -> bool:
    """Return whether there is something to do, and this process has not done it for :data:`INTERVAL` seconds."""
    return bool(_sweeps) and time.monotonic() - _last.get().get(spool_dir, -INTERVAL) >= INTERVAL
