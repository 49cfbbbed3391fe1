"""How does an application have jobs run one after the other, each with the result of the one before?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spoolkit.coordination import chains
from spoolkit.errors import ArgumentError, ArgumentTypeError, JobStateError, UnknownJobError, shown
from spoolkit.handle import Job
from spoolkit.job import FINISHED, RESULT, State, replaced
from spoolkit.spooldir import waiting
from spoolkit.store import locations
from spoolkit.task import PlannedCall, within_hooks


@dataclass(frozen=True)
class Chain:
    """A handle of jobs that run one after the other."""

    #: The jobs in their order. One that is not accepted yet is unknown: its properties raise ``UnknownJobError``.
    jobs: tuple[Job[Any], ...]

    @property
    def current(self) -> Job[Any]:
        """The last of the jobs that is accepted.

        Raises:
            UnknownJobError: None is known any more: their records were deleted.
        """
        return self._where()[0]

    @property
    def finished(self) -> bool:
        """Whether no job of it will run by itself: the last one is finished, or one before it did not succeed."""
        job, state = self._where()
        return state in FINISHED and (job is self.jobs[-1] or state is not State.DONE)

    @property
    def result(self) -> Any:
        """What the task of the last job returned.

        Raises:
            JobStateError: The chain is not finished.
            JobError: A job did not succeed; the errors are those of :attr:`Job.result`.
        """
        job, state = self._where()
        if state is State.DONE and job is not self.jobs[-1]:
            raise JobStateError(f"the job after {job.id} is not accepted yet: wait() for it", job=job.id, state="done")
        return job.result

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the chain is finished.

        Args:
            timeout: The longest time to wait, in seconds. ``None``: no limit.

        Returns:
            Whether it is finished: the last job is done, dead, cancelled or lost, or one before it did not succeed.
        """
        last = self.jobs[-1]
        return waiting.wait(lambda: self.finished, locations.spool_dir_of(last.queue), last.id, timeout)

    def _where(self) -> tuple[Job[Any], State]:
        found: tuple[Job[Any], State] | None = None
        for job in self.jobs:
            try:
                found = job, job.state
            except UnknownJobError:
                # The job after it may be known all the same: this one ran while the store could not be written.
                if job is self.jobs[-1] and found is None:
                    raise
            else:
                if found[1] not in FINISHED:
                    break  # none follows: to look for an id without a file, all file names have to be read
        assert found is not None
        return found


def chain(*calls: PlannedCall[Any]) -> Chain:
    """Enqueue jobs that run one after the other: ``chain(fetch.call(url), store.call(RESULT, key=5))``.

    The first job is enqueued now, with the calls that follow it in its file. When a job is done, the next one is
    enqueued. A job that ends in another way stops the chain; a dead one that is retried goes on with it.

    Args:
        calls: Two calls or more, each of the form ``task.call(...)``. ``RESULT`` among the arguments of a call stands
            for the result of the call before it.

    Returns:
        A handle of the jobs, the first of which is accepted by then.

    Raises:
        ArgumentError: A call cannot be part of a chain, or its arguments are of an unsupported type or too large. As
            with each error, nothing was accepted.
        SpoolUnavailableError: The spool directory takes no job now.
    """
    if len(calls) < 2:
        raise ArgumentError(
            f"chain() needs two calls or more, not {len(calls)}: chain(first.call(1), second.call(RESULT))"
        )
    for call in calls:
        if not isinstance(call, PlannedCall):
            raise ArgumentTypeError(
                f"{shown(call)} is not a call: give task.call(...). Chains and batches within a chain are not "
                "supported: let the last task of a chain start the next one",
                type_name=type(call).__qualname__,
            )
    first = calls[0].job()
    jobs, following = [first], []
    for call in calls[1:]:
        job = replaced(call.job_for_later("a later call"), id=chains.next_id(jobs[-1].id))
        jobs.append(job)
        following.append(call.dump(_with_places(job)))
    task, after_commit = calls[0].task, calls[0].options.get("after_commit")
    first = within_hooks(replaced(first, chain=tuple(following)), lambda job: task._submit(job, after_commit))
    return Chain((first, *jobs[1:]))


def _with_places(job: Job[Any]) -> Job[Any]:
    """``job`` without :data:`RESULT` among its arguments, but with the places where it was."""
    places: list[int | str] = [index for index, value in enumerate(job.args) if value is RESULT]
    places += [name for name, value in job.kwargs.items() if value is RESULT]
    args = tuple([None if value is RESULT else value for value in job.args])
    kwargs = {name: None if value is RESULT else value for name, value in job.kwargs.items()}
    return replaced(job, args=args, kwargs=kwargs, result_at=tuple(places) or None)
