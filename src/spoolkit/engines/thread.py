"""``@thread``: a daemon thread of the calling process runs the job, which is lost with the process."""

from __future__ import annotations

import threading

from spoolkit import runner
from spoolkit.errors import ScheduleError
from spoolkit.job import Job
from spoolkit.registry import Declared


class ThreadEngine:
    """One thread per job. Arguments are handed over as they are; an attempt that fails is logged and not repeated.

    Its jobs are not recorded: they have no state to be asked for.
    """

    name = "thread"

    def submit(self, job: Job, declared: Declared) -> None:
        """Start a thread for ``job``. Raises :class:`ScheduleError` for a job with ``run_at``."""
        if job.run_at is not None:
            raise ScheduleError("a thread runs at once: for at or delay declare the task with @spool", argument="at")
        threading.Thread(
            target=runner.attempt_untracked,
            args=(job, declared),
            name=f"{declared.name}-{job.id[-6:]}",
            daemon=True,
        ).start()
