"""A job as its caller holds it: frozen as it was made, with what became of it to be asked for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Generic, TypeVar, cast

from spoolkit import job
from spoolkit.admin import actions, lookup
from spoolkit.encoding import codec
from spoolkit.errors import (
    JobCancelled,
    JobCrashedError,
    JobError,
    JobFailedError,
    JobLostError,
    JobStateError,
    JobTimeout,
    ResultUnavailableError,
)
from spoolkit.job import FINISHED, Attempt, Progress, State, Status
from spoolkit.spooldir import waiting
from spoolkit.store import locations

R = TypeVar("R", covariant=True)  # a result is only ever read


class Job(job.JobSpec, Generic[R]):
    """One call of a task that returns an ``R``. What it holds was true when it was made.

    Each question below is answered as of now, and raises :class:`~spoolkit.errors.UnknownJobError` once the job's
    record is gone. Two handles of one job are equal, also where one comes from :meth:`get` or from another process.
    """

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, job.JobSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    def get(cls, id: str) -> Job[Any]:
        """The job ``id``, without its arguments. Raises :class:`~spoolkit.errors.UnknownJobError`."""
        found = lookup.find(id)
        return cls(
            id=found.id,
            task=found.task or "?",
            engine=found.engine,
            enqueued_at=found.enqueued_at or 0.0,
            run_at=found.run_at,
            queue=found.queue,
        )

    @classmethod
    def of(cls, made: job.JobSpec) -> Job[R]:
        """The handle of a job that was just made."""
        return cls(**{field.name: getattr(made, field.name) for field in fields(made)})

    @property
    def status(self) -> Status:
        """All that is known of the job, as of one moment."""
        return lookup.find(self.id)

    @property
    def state(self) -> State:
        """Where the job stands."""
        return self.status.state

    @property
    def attempt(self) -> int:
        """How many attempts were started."""
        return self.status.attempt

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts so far, each with its outcome, traceback and log."""
        return lookup.details(self.id).attempts

    @property
    def progress(self) -> Progress | None:
        """How far the job last said it was."""
        return self.status.progress

    @property
    def result(self) -> R:
        """What the task returned.

        Raises :class:`JobStateError` where the job is not over, :class:`JobFailedError` (or its :class:`JobTimeout`,
        :class:`JobCrashedError`) where it is dead, with the task's own traceback in its notes, :class:`JobCancelled`,
        :class:`JobLostError`, and :class:`ResultUnavailableError` for a result that could not be kept.
        """
        status = self.status
        if status.state is State.DONE:
            if status.result_error is not None:
                raise ResultUnavailableError(f"job {self.id}: {status.result_error}", job=self.id)
            result: Any = None if status.result is None else codec.decode(status.result)
            return cast(R, result)
        if status.state not in FINISHED:
            raise JobStateError(f"job {self.id} is {status.state}: wait() for it", job=self.id, state=str(status.state))
        raise _error(status)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job is over, at most ``timeout`` seconds (``None``: for ever); whether it is."""
        spool_dir = locations.spool_dir_of(self.queue)
        return waiting.until(lambda: self.state in FINISHED, spool_dir, self.id, timeout)

    def cancel(self, *, force: bool = False) -> State:
        """See that the job does not run, or not on; see :func:`spoolkit.admin.actions.cancel`."""
        return actions.cancel(self.id, force=force)


def _error(status: Status) -> JobError:
    message = f"job {status.id} of {status.task}"
    if status.state is State.CANCELLED:
        return JobCancelled(f"{message} was cancelled: {status.error_message}", job=status.id)
    if status.state is State.LOST:
        return JobLostError(f"{message} is lost", job=status.id)
    kind: type[JobFailedError] = {"timeout": JobTimeout, "crashed": JobCrashedError}.get(
        status.ending or "", JobFailedError
    )
    what = ": ".join(filter(None, (status.error_type, status.error_message)))
    error = kind(f"{message} is dead: {what}", job=status.id, error_type=status.error_type)
    for attempt in reversed(lookup.details(status.id).attempts):
        if attempt.traceback:
            error.add_note(f"attempt {attempt.number}, in process {attempt.pid}:\n{attempt.traceback}")
            break
    return error
