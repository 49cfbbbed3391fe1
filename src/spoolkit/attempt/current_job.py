"""The job that is running here, as its task sees it: ``current_job()``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, TypeVar

from spoolkit.errors import ArgumentTypeError, JobCancelled, NoCurrentJobError, shown
from spoolkit.job import JobSpec, Progress
from spoolkit.spooldir.checkpoints import Checkpoint
from spoolkit.spooldir.running import Recorder

T = TypeVar("T")

NOTE_LIMIT = 800
"""Characters of a progress note that are kept; there is room for no more beside the numbers."""


@dataclass(frozen=True)
class CurrentJob(JobSpec):
    """The job that is running here, as its task sees it.

    ``attempt``       which run of the job this is, from 1
    ``max_attempts``  how many it may have
    """

    attempt: int = 1
    max_attempts: int = 1
    _recorder: Recorder | None = field(default=None, repr=False, compare=False)
    _saw_cancellation: list[bool] = field(default_factory=list, repr=False, compare=False)
    _checkpoint: Checkpoint = field(default_factory=Checkpoint, repr=False, compare=False)
    _loops: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants the job to stop. A task that then returns ends its job as cancelled."""
        if self._recorder is None or not self._recorder.cancelled:
            return False
        self._saw_cancellation.append(True)
        return True

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Show that ``done`` of ``total`` is done. Cheap enough for the innermost loop.

        Raises :class:`JobCancelled` if somebody wants the job to stop, so that a task that reports needs not ask, and
        :class:`ArgumentTypeError` for what is no number.
        """
        text = note if isinstance(note, str) else shown(note)
        reached = Progress(_number("done", done), None if total is None else _number("total", total), text[:NOTE_LIMIT])
        if self._recorder is not None:
            self._recorder.progress(reached)
        if self.cancelled:
            raise JobCancelled(job=self.id)

    def checkpoint(self, data: object) -> None:
        """Store ``data``, a small value that crosses, in place of what was stored: it outlives this attempt.

        Raises :class:`ArgumentTypeError`, :class:`TooLargeError` over 64 KiB, and :class:`StoreUnavailableError` where
        it cannot be kept; what was stored before is kept then.
        """
        self._checkpoint.store(data)

    def resume(self, default: object = None) -> Any:
        """What :meth:`checkpoint` stored last, in this attempt or an earlier one; ``default`` if nothing was.

        Raises :class:`DecodeError` where this version of the code cannot read it.
        """
        value = self._checkpoint.value
        return default if value is None else value

    def steps(self, iterable: Iterable[T]) -> Iterator[T]:
        """The items of ``iterable`` but for those that earlier attempts were done with, by their number.

        An item counts as done once the next one is asked for: the one that was interrupted comes again. The items must
        come in the same order each time. Several loops are told apart by their order.
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
    """The job that is running here. Raises :class:`NoCurrentJobError` outside of one."""
    try:
        return _current.get()
    except LookupError:
        raise NoCurrentJobError("current_job() is for the inside of a running task") from None


@contextmanager
def running(job: CurrentJob) -> Iterator[None]:
    """Within it, ``job`` is the current job."""
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)
