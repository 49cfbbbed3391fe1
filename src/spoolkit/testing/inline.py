"""How does a test run a job with neither spooler nor thread? The caller runs all attempts before the call returns."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context

from spoolkit import application, signals
from spoolkit.attempt import in_process, job_log
from spoolkit.attempt.runner import AttemptResult
from spoolkit.coordination import commits
from spoolkit.errors import ScheduleError
from spoolkit.job import AnyJob, JobSpec, Outcome, RetryAt
from spoolkit.registry import Declared
from spoolkit.spooldir import held
from spoolkit.store import locations
from spoolkit.threads.context import check_arguments, copy_caller_context


class InlineEngine:
    """Runs each job in the thread of its caller, without the caller's request, as the other engines do.

    A retry starts at once: it does not wait until it is due.
    """

    name = "inline"

    def submit(self, job: AnyJob, declared: Declared, after_commit: object = None) -> AnyJob:
        """Run all attempts of ``job`` and return it. What its task raises is recorded and not raised here.

        A job that is to wait for a commit runs then.

        Raises:
            ScheduleError: The job has a ``run_at``.
            ArgumentTypeError: An argument belongs to the caller's request or to its database session.
        """
        if job.run_at is not None:
            raise ScheduleError("an inline job runs at once: only the spool engine takes at and delay", argument="at")
        check_arguments(job, declared.positional)
        context = copy_caller_context()
        context.run(application.choose, application.current())
        one = HeldInlineJob(job, declared, context)
        config = application.settings(declared.code_folder)
        transaction = commits.current(after_commit, is_automatic=config.after_commit)
        if transaction is None:
            one.publish()
        else:
            held.add(one.jobs)
            transaction.hold(one)
        return job


class HeldInlineJob:
    """A job that runs when it is published: see :class:`~spoolkit.coordination.commits.Held`."""

    def __init__(self, job: JobSpec, declared: Declared, context: Context) -> None:
        self.jobs: Sequence[JobSpec] = [job]
        self.spool = ""
        self.names: Sequence[str] = ()
        self._declared = declared
        self._context = context

    def publish(self) -> None:
        """Run all attempts."""
        held.remove(self.jobs)
        signals.accepted(self.jobs)
        (job,), number = self.jobs, 1
        while isinstance(self._context.copy().run(_attempt, job, self._declared, number), RetryAt):
            number += 1

    def discard(self) -> None:
        """Forget the job."""
        held.remove(self.jobs)

    doubt = discard


def _attempt(job: JobSpec, declared: Declared, number: int) -> Outcome | None:
    config = application.settings(declared.code_folder)
    with job_log.about(job, config):
        result = in_process.attempt(job, declared, locations.store(config), config, number)
    return result.outcome if isinstance(result, AttemptResult) else None
