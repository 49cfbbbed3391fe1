"""What happens at this moment, and what happened in the last hour?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spoolkit import application
from spoolkit.job import State, Status
from spoolkit.spooldir import spoolers
from spoolkit.store import locations
from spoolkit.system import clock, process

MINUTES = 60
"""How many minutes are told."""


@dataclass(frozen=True)
class Minute:
    """The jobs that ended in one minute."""

    #: When it began, unix time in seconds (UTC).
    begin: float
    #: How many jobs were done.
    done: int
    #: How many jobs died.
    dead: int


@dataclass(frozen=True)
class Spooler:
    """A process that runs jobs."""

    #: Its queue: the name, or the spool directory if that has none.
    queue: str
    #: Its pid.
    pid: int
    #: The job that it runs; ``None``: none that is known.
    job: Status | None
    #: Whether it is busy.
    is_busy: bool
    #: Whether it runs code from before the last reload, and exits after its job.
    is_outdated: bool


def last_hour() -> list[Minute]:
    """Return the last 60 minutes, the earliest first; the present one is the last.

    Raises:
        StoreUnavailableError: The store cannot be read.
    """
    now = clock.now()
    since = now - now % 60 - 60 * (MINUTES - 1)
    ended = locations.store().ends_by_minute(since, (State.DONE, State.DEAD))
    return [
        Minute(since + 60 * minute, ended.get((minute, State.DONE), 0), ended.get((minute, State.DEAD), 0))
        for minute in range(MINUTES)
    ]


def list_spoolers(running: Iterable[Status]) -> list[Spooler]:
    """Return the processes that run jobs of ``@spool``, by queue and pid.

    Args:
        running: The running jobs.
    """
    by_pid, config = {job.pid: job for job in running if job.pid is not None}, application.settings()
    found = []
    for spool_dir in locations.spool_dirs(config):
        queue = locations.queue_name(spool_dir, config) or spool_dir
        busy, outdated = spoolers.busy([spool_dir]), spoolers.outdated_pids(spool_dir)
        for pid in spoolers.pids(spool_dir):
            job = by_pid.get(pid)
            found.append(Spooler(queue, pid, job, pid in busy or job is not None, pid in outdated))
    return found


def last_deploy() -> float | None:
    """Return when the site began to run its present code, unix time in seconds (UTC); ``None`` if it is not known.

    That is its last reload, or its last start: when the oldest of its spoolers started.
    """
    spool_dirs = locations.spool_dirs()
    times = [time for path in spool_dirs if (time := spoolers.generation_time(path)) is not None]
    ages = [age for path in spool_dirs for pid in spoolers.pids(path) if (age := process.age(pid)) is not None]
    if ages:
        times.append(clock.now() - max(ages))
    return max(times, default=None)
