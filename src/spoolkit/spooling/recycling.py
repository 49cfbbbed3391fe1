"""Has a spooler run so many jobs, or grown so large, that a new process takes its place? Asked between two jobs."""

from __future__ import annotations

import os

from spoolkit.errors import counted
from spoolkit.lifecycle import spooler_signals
from spoolkit.settings import Settings
from spoolkit.system import log, process

EXIT_STATUS = 75
"""The exit status of a process of ``flask spool run`` that another one replaces at once: any other tells of a fault."""


class _Spooler:
    """What this process knows of itself. A spooler is forked by a process that runs no job."""

    #: How many jobs it has run.
    jobs = 0


_spooler = _Spooler()


def after_job(config: Settings) -> None:
    """Count a job, and have this process exit before the next one if it has reached a limit of the settings."""
    _spooler.jobs += 1
    if config.spooler_max_jobs or config.spooler_max_memory:
        size = process.resident_size() if config.spooler_max_memory else 0
        if (reason := why(_spooler.jobs, size, config)) is not None:
            log.info("spooler %d exits, and another one follows: %s", os.getpid(), reason)
            spooler_signals.request_exit()


def why(jobs: int, size: int, config: Settings) -> str | None:
    """Return why a spooler is replaced that has run so many jobs and takes ``size`` bytes; ``None``: it is not."""
    if 0 < config.spooler_max_jobs <= jobs:
        return f"it has run {counted(jobs, 'job')} (SPOOLKIT_SPOOLER_MAX_JOBS)"
    if 0 < config.spooler_max_memory < size:
        return f"it takes {size} bytes after {counted(jobs, 'job')} (SPOOLKIT_SPOOLER_MAX_MEMORY)"
    return None
