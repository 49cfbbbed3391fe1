"""What does a caller hold of a job, and how does it learn what became of the job?"""

from __future__ import annotations

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
from spoolkit.spooldir import held, waiting
from spoolkit.store import locations

R = TypeVar("R", covariant=True)  # a result is only ever read


class Job(job.JobSpec, Generic[R]):
    """A handle of one call of a task that returns an ``R``.

    Its fields are those of the job when it was made. Its properties and methods read the current state of the job, and
    raise :class:`~spoolkit.errors.UnknownJobError` once the job's record is deleted. Two handles of the same job are
    equal, wherever they come from.
    """

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, job.JobSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    def get(cls, id: str) -> Job[Any]:
        """Find a job by its id, also in another process than the one that enqueued it.

        Args:
            id: The full id of the job.

        Returns:
            A handle of the job, without the job's arguments.

        Raises:
            UnknownJobError: There is neither a file nor a record of the job.
        """
        return cls.from_status(lookup.find(id))

    @classmethod
    def from_status(cls, found: Status) -> Job[Any]:
        """The handle of a job of which this is known, without the job's arguments."""
        return job.of_status(cls, found)

    @classmethod
    def of(cls, spec: job.JobSpec) -> Job[R]:
        """The handle of a job that is known in full, such as one that was read from its file."""
        return cls(**vars(spec))

    @property
    def status(self) -> Status:
        """All that is known of the job, read at once."""
        return lookup.find(self.id)

    @property
    def state(self) -> State:
        """The state of the job."""
        return self.status.state

    @property
    def held(self) -> bool:
        """Whether the job waits for the commit of a transaction of this process, and is not accepted before.

        Its state is ``queued`` meanwhile, and other processes do not know it. If the transaction is not committed, the
        job is unknown afterwards.
        """
        return held.find(self.id) is not None

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
        """What the job last reported of its progress; ``None`` where it has reported nothing."""
        return self.status.progress

    @property
    def result(self) -> R:
        """What the task returned.

        Raises:
            JobStateError: The job is not finished.
            JobFailedError: The job is dead; the notes of the error hold the task's traceback. :class:`JobTimeout` and
                :class:`JobCrashedError` are kinds of it.
            JobCancelled: The job was cancelled.
            JobLostError: The job is lost.
            ResultUnavailableError: The job is done, but its result could not be kept.
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
        """Wait until the job is finished.

        Args:
            timeout: The longest time to wait, in seconds. ``None``: no limit.

        Returns:
            Whether the job is finished: done, dead, cancelled or lost.

        Raises:
            JobStateError: The job waits for a commit: the wait could be for ever.
        """
        if self.held:
            raise JobStateError(
                f"job {self.id} waits for a commit: wait() for it afterwards", job=self.id, state="queued"
            )
        spool_dir = locations.spool_dir_of(self.queue)
        return waiting.wait(lambda: self.state in FINISHED, spool_dir, self.id, timeout)

    def cancel(self, *, force: bool = False) -> State:
        """Cancel the job. A waiting job never runs; a running one is asked to stop, which its task must check for.

        Args:
            force: Kill the process of a running job and record the job as cancelled.

        Returns:
            The state of the job afterwards: cancelled, or running where it was asked to stop.

        Raises:
            JobStateError: The job is finished, its file is locked by another process, or its process must not be
                killed.
            StoreUnavailableError: The cancellation cannot be recorded; nothing was changed.
            SpoolUnavailableError: This process may not change the spool directory.
        """
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
    reason = ": ".join(filter(None, (status.error_type, status.error_message)))
    error = kind(f"{message} is dead: {reason}", job=status.id, error_type=status.error_type)
    for attempt in reversed(lookup.details(status.id).attempts):
        if attempt.traceback:
            error.add_note(f"attempt {attempt.number}, in process {attempt.pid}:\n{attempt.traceback}")
            break
    return error
