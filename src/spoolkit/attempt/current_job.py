"""What does a task know of the job that it runs for? ``current_job()`` returns it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, islice
from types import MappingProxyType
from typing import Any, TypeVar

from spoolkit.errors import ArgumentTypeError, JobCancelled, NoCurrentJobError, shown
from spoolkit.job import JobSpec, Progress
from spoolkit.spooldir.checkpoints import Checkpoint
from spoolkit.spooldir.running import AttemptFile

T = TypeVar("T")

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

NOTE_LIMIT = 800
"""Characters of a progress note that are stored, at most: the file has no room for more beside the numbers."""


@dataclass(frozen=True, init=False)
class CurrentJob(JobSpec):
    """The job that is running, as its task sees it.

    Args:
        job: The job.
        attempt: The number of the attempt.
        max_attempts: How many attempts the job may have.
        attempt_file: Where the attempt shows its progress. ``None``: the job is not tracked, and its checkpoint lives
            as long as this object.
    """

    #: Which attempt of the job this is, from 1.
    attempt: int = 1
    #: How many attempts the job may have.
    max_attempts: int = 1
    #: What its call has sent along, such as the id of the request. Read-only; empty where that is nothing.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    _attempt_file: AttemptFile | None = field(default=None, repr=False, compare=False)
    _saw_cancellation: list[bool] = field(default_factory=list, repr=False, compare=False)

    def __init__(
        self, job: JobSpec, *, attempt: int = 1, max_attempts: int = 1, attempt_file: AttemptFile | None = None
    ) -> None:
        # At once: what a frozen dataclass generates makes a call for each field.
        fields = self.__dict__
        fields.update(job.__dict__)
        fields["attempt"], fields["max_attempts"] = attempt, max_attempts
        fields["headers"] = fields.get("headers") or NO_HEADERS
        fields["_attempt_file"], fields["_saw_cancellation"] = attempt_file, []

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint() if self._attempt_file is None else self._attempt_file.checkpoint()

    @property
    def _has_used_checkpoint(self) -> bool:
        """Whether the task has read or stored a checkpoint in this attempt."""
        return "_checkpoint" in self.__dict__

    @cached_property
    def _loops(self) -> Iterator[int]:
        return count()

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked the job to stop. If the task then returns, the job ends as cancelled."""
        if self._attempt_file is None or not self._attempt_file.cancel_asked:
            return False
        self._saw_cancellation.append(True)
        return True

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Show how far the job is. It is cheap enough for the innermost loop.

        Args:
            done: How much is done, in a unit of the task's own.
            total: How much there is to do, in the same unit; ``None``: unknown.
            note: A short text that is shown beside the numbers.

        Raises:
            JobCancelled: Somebody has asked the job to stop, so a task that reports progress need not ask.
            ArgumentTypeError: ``done`` or ``total`` is not a finite number.
        """
        text = note if isinstance(note, str) else shown(note)
        reached = Progress(_number("done", done), None if total is None else _number("total", total), text[:NOTE_LIMIT])
        if self._attempt_file is not None:
            self._attempt_file.progress(reached)
        if self.cancelled:
            raise JobCancelled(job=self.id)

    def checkpoint(self, data: object) -> None:
        """Store a small value that outlives this attempt, in place of the one stored before.

        Args:
            data: A value of the supported types.

        Raises:
            ArgumentTypeError: The value, or one within it, is of another type.
            TooLargeError: The value takes more than 64 KiB.
            StoreUnavailableError: The value cannot be written; the one stored before is still there.
        """
        self._checkpoint.store(data)

    def resume(self, default: object = None) -> Any:
        """Return what :meth:`checkpoint` stored last, in this attempt or an earlier one.

        Args:
            default: What is returned if nothing was stored.

        Raises:
            DecodeError: This version of the code cannot read the value.
            StoreUnavailableError: The value cannot be read from the disk.
        """
        value = self._checkpoint.value
        return default if value is None else value

    def steps(self, iterable: Iterable[T]) -> Iterator[T]:
        """Yield the items of ``iterable`` that earlier attempts have not finished.

        An item counts as finished once the next one is requested, so an interrupted item comes again. Finished items
        are skipped by their number: the items must come in the same order in each attempt, and several loops of one
        task must start in the same order.

        Args:
            iterable: What to loop over.
        """
        loop = next(self._loops)
        done = self._checkpoint.steps(loop)
        for number, item in enumerate(islice(iterable, done, None), start=done + 1):
            yield item
            self._checkpoint.count(loop, number)


def _number(name: str, value: object) -> float:
    if isinstance(value, int) and abs(value) < 2**53:
        return int(value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentTypeError(f"{name} is {shown(value)}: give a finite number", argument=name)
    return number


_current: ContextVar[CurrentJob] = ContextVar("spoolkit.current_job")


def current_job() -> CurrentJob:
    """Return the job that is running in this context.

    Raises:
        NoCurrentJobError: No job is running here.
    """
    try:
        return _current.get()
    except LookupError:
        raise NoCurrentJobError("current_job() was called outside of a running task") from None


def headers() -> Mapping[str, str]:
    """Return the headers of the job that is running in this context; none outside of a job."""
    job = _current.get(None)
    return NO_HEADERS if job is None else job.headers


class as_current_job:  # noqa: N801 - see calling.no_child
    """Make ``job`` the current job in the ``with`` block."""

    def __init__(self, job: CurrentJob) -> None:
        self._job = job

    def __enter__(self) -> None:
        self._token = _current.set(self._job)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
