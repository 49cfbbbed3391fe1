"""What does ``flask spool run`` report to systemd, and when? It is asked at each turn of the supervisor."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from spoolkit.spooldir import room, spoolers
from spoolkit.system import process
from spoolkit.system.service_manager import ServiceManager

INTERVAL = 5.0
"""Seconds between two reports, at most."""

EXTENSION = 30.0
"""Seconds more that a stop may take from each report on, while jobs finish."""

MAX_DUE = 1000
"""How many due jobs of a queue are counted."""


@dataclass(frozen=True)
class Seen:
    """What the supervisor sees of its spoolers."""

    #: How many of them run a job.
    running: int
    #: How many jobs are due, and do not run.
    due: int
    #: Whether each process that is to run is there, and has begun to look for jobs.
    all_serve: bool
    #: Whether each queue has a process that does.
    all_queues_served: bool


def assignments(seen: Seen, *, is_ready: bool, is_stopping: bool, watchdog: float | None) -> list[str]:
    """Return what is to be reported.

    Args:
        seen: What there is to see.
        is_ready: Whether it was reported that the service is ready.
        is_stopping: Whether the service stops.
        watchdog: Seconds within which the manager must hear that all is well; ``None``: it does not watch.
    """
    if is_stopping:
        found = ["STOPPING=1", f"EXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}", f"STATUS={seen.running} running, stopping"]
    else:
        due = f"over {MAX_DUE}" if seen.due > MAX_DUE else str(seen.due)
        found = [f"STATUS={seen.running} running, {due} due"]
        if seen.all_serve and not is_ready:
            found.insert(0, "READY=1")
    # In a stop spoolers exit one by one: what counts then is that this process waits for them.
    if watchdog is not None and (seen.all_queues_served or is_stopping):
        found.append("WATCHDOG=1")
    return found


class ServiceReport:
    """Reports to the service manager, if there is one.

    Args:
        manager: The service manager; ``None``: there is none, and nothing is looked at.
        spool_dirs: The spool directories.
    """

    def __init__(self, manager: ServiceManager | None, spool_dirs: Sequence[str]) -> None:
        self._manager = manager
        self._spool_dirs = spool_dirs
        self._is_ready = False
        self._next = 0.0
        """When the next report is due, on the monotonic clock."""

    @property
    def left(self) -> float:
        """Seconds until the next report."""
        return float("inf") if self._manager is None else max(0.0, self._next - time.monotonic())

    def hurry(self) -> None:
        """Let the next report be due now. May be called by the handler of a signal."""
        self._next = 0.0

    def send(self, children: Mapping[int, str], number: int, *, is_stopping: bool) -> None:
        """Send a report, if one is due.

        Args:
            children: The spool directory of each process, by its pid.
            number: How many processes there are to be.
            is_stopping: Whether they are to exit.
        """
        if self._manager is None or self.left > 0:
            return
        watchdog = self._manager.watchdog
        seen = look(self._spool_dirs, children, number)
        lines = assignments(seen, is_ready=self._is_ready, is_stopping=is_stopping, watchdog=watchdog)
        if self._manager.send(*lines) and "READY=1" in lines:
            self._is_ready = True
        pause = INTERVAL if watchdog is None else min(INTERVAL, watchdog / 4)
        self._next = time.monotonic() + (pause if self._is_ready or is_stopping else min(pause, 0.1))


def look(spool_dirs: Sequence[str], children: Mapping[int, str], number: int) -> Seen:
    """Find out what there is to see of the processes ``children`` (see :meth:`ServiceReport.send`)."""
    serving = {spool_dir: _serving(spool_dir, children) for spool_dir in spool_dirs}
    busy = len(spoolers.busy(spool_dirs, children))
    due = 0
    for spool_dir in spool_dirs:
        with contextlib.suppress(OSError):  # the spoolers log it
            due += room.due(spool_dir, MAX_DUE + busy + 1)
    return Seen(
        running=busy,
        due=max(0, due - busy),
        all_serve=sum(map(len, serving.values())) >= number,
        all_queues_served=all(serving.values()),
    )


def _serving(spool_dir: str, children: Collection[int]) -> list[int]:
    known = set(spoolers.pids(os.path.realpath(spool_dir))).intersection(children)
    return [pid for pid in known if not process.is_stopped(pid)]
