"""Which jobs are there, and what is done to all of them at once? What ``kit.jobs(...)`` returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from spoolkit.admin import bulk, lookup
from spoolkit.admin.bulk import BulkResult
from spoolkit.errors import ArgumentError, ArgumentTypeError, shown
from spoolkit.handle import Job
from spoolkit.job import State
from spoolkit.task import Task

States = State | str | Iterable[State | str]
"""A state, or several of them, also as text."""


class Jobs(Sequence[Job[Any]]):
    """Jobs, newest first, as they were when they were listed.

    Each action is done to those of them that it makes sense for, the oldest first, and continues after a job for which
    it was refused.
    """

    def __init__(self, found: lookup.Listing) -> None:
        self._found = found
        self._jobs = [Job.from_status(status) for status in found]

    @property
    def complete(self) -> bool:
        """Whether these are all jobs that were asked for; otherwise only so many files and records were read."""
        return self._found.complete

    def cancel(self, *, force: bool = False) -> BulkResult:
        """Cancel the jobs that are not finished, as :meth:`Job.cancel` does each.

        Args:
            force: Kill the processes of running jobs, which otherwise are asked to stop.

        Returns:
            How many were cancelled or asked to stop, and which were refused.
        """
        return bulk.cancel(self._found, force=force)

    def retry(self) -> BulkResult:
        """Run the dead jobs again, with a new count of attempts.

        Returns:
            How many were requeued, and which were refused.
        """
        return bulk.retry(self._found)

    def purge(self) -> BulkResult:
        """Delete the records of the finished jobs, and the files of the dead ones, which can never run again then.

        Returns:
            How many were deleted, and which were refused.
        """
        return bulk.purge(self._found)

    @overload
    def __getitem__(self, index: int) -> Job[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Job[Any]]: ...
    def __getitem__(self, index: int | slice) -> Job[Any] | list[Job[Any]]:
        return self._jobs[index]

    def __iter__(self) -> Iterator[Job[Any]]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def __repr__(self) -> str:
        return f"<Jobs {[job.id for job in self._jobs]}>"


def select(
    task: Task[..., Any] | str | None,
    state: States | None,
    tag: str | None,
    limit: int | None,
    before: Job[Any] | str | None,
) -> Jobs:
    """Find jobs: see :meth:`spoolkit.extension.SpoolKit.jobs`."""
    name = task.name if isinstance(task, Task) else task
    older_than = before.id if isinstance(before, Job) else before
    for argument, value in (("task", name), ("tag", tag), ("before", older_than)):
        if value is not None and not isinstance(value, str):
            raise ArgumentTypeError(
                f"{argument} is {shown(value)}: give a text", argument=argument, type_name=type(value).__qualname__
            )
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ArgumentError(f"limit is {shown(limit)}: give a whole number, one or more", argument="limit")
    return Jobs(lookup.jobs(states=_states(state), task=name, tag=tag, limit=limit, before=older_than))


def _states(given: States | None) -> frozenset[State]:
    try:
        return frozenset(map(State, () if given is None else [given] if isinstance(given, str) else given))
    except (TypeError, ValueError):
        known = ", ".join(State)
        raise ArgumentError(f"state is {shown(given)}: give some of {known}", argument="state") from None
