"""The caller itself runs the job, and all its attempts, before the call returns. For tests."""

from __future__ import annotations

from spoolkit import application
from spoolkit.attempt import runner
from spoolkit.errors import ScheduleError
from spoolkit.job import Job, Outcome, RetryAt
from spoolkit.registry import Declared
from spoolkit.store import locations
from spoolkit.system import log
from spoolkit.threads import context as isolation


class InlineEngine:
    """Jobs in the caller's thread, isolated from its request as anywhere else. A retry does not wait for its time."""

    name = "inline"

    def submit(self, job: Job, declared: Declared) -> Job:
        """Run ``job``. Raises :class:`ScheduleError` for a job with ``run_at``, and nothing that its task raises."""
        if job.run_at is not None:
            raise ScheduleError("an inline job runs at once: at and delay are for the spool engine", argument="at")
        isolation.check(job, declared.positional)
        context, number = isolation.context(), 1
        context.run(application.choose, application.current())
        while isinstance(context.copy().run(_attempt, job, declared, number), RetryAt):
            number += 1
        return job


def _attempt(job: Job, declared: Declared, number: int) -> Outcome | None:
    config = application.settings(declared.home)
    place = runner.Place(count=lambda: number)
    with log.about(job.id, job.task):
        ended = runner.attempt(job, declared, place, locations.store(config), config)
        if ended is None:
            return None
        ended.record()
        return ended.outcome
