"""How does a test run a job with neither spooler nor thread? The caller runs all attempts before the call returns."""

from __future__ import annotations

from spoolkit import application
from spoolkit.attempt import in_process, job_log
from spoolkit.errors import ScheduleError
from spoolkit.job import AnyJob, JobSpec, Outcome, RetryAt
from spoolkit.registry import Declared
from spoolkit.store import locations
from spoolkit.threads.context import check_arguments, copy_caller_context


class InlineEngine:
    """Runs each job in the thread of its caller, without the caller's request, as the other engines do.

    A retry starts at once: it does not wait until it is due.
    """

    name = "inline"

    def submit(self, job: AnyJob, declared: Declared) -> AnyJob:
        """Run all attempts of ``job`` and return it. What its task raises is recorded and not raised here.

        Raises:
            ScheduleError: The job has a ``run_at``.
            ArgumentTypeError: An argument belongs to the caller's request or to its database session.
        """
        if job.run_at is not None:
            raise ScheduleError("an inline job runs at once: only the spool engine takes at and delay", argument="at")
        check_arguments(job, declared.positional)
        context, number = copy_caller_context(), 1
        context.run(application.choose, application.current())
        while isinstance(context.copy().run(_attempt, job, declared, number), RetryAt):
            number += 1
        return job


def _attempt(job: JobSpec, declared: Declared, number: int) -> Outcome | None:
    config = application.settings(declared.code_folder)
    with job_log.about(job, config):
        result = in_process.attempt(job, declared, locations.store(config), config, number)
    return None if result is None else result.outcome
