"""The job that is running here, as its task sees it: ``current_job()``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from spoolkit.errors import ArgumentTypeError, JobCancelled, NoCurrentJobError
from spoolkit.job import Job, Progress
from spoolkit.recorder import Recorder


@dataclass(frozen=True)
class CurrentJob(Job):
    """The job that is running here, as its task sees it.

    ``attempt``       which run of the job this is, from 1
    ``max_attempts``  how many it may have
    """

    attempt: int = 1
    max_attempts: int = 1
    _recorder: Recorder | None = field(default=None, repr=False, compare=False)
    _told: list[bool] = field(default_factory=list, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants the job to stop. A task that then returns ends its job as cancelled."""
        if self._recorder is None or not self._recorder.cancelled:
            return False
        self._told.append(True)
        return True

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Show that ``done`` of ``total`` is done. Cheap enough for the innermost loop.

        Raises :class:`JobCancelled` if somebody wants the job to stop, so that a task that reports needs not ask, and
        :class:`ArgumentTypeError` for what is no number.
        """
        shown = Progress(_number("done", done), None if total is None else _number("total", total), str(note))
        if self._recorder is not None:
            self._recorder.progress(shown)
        if self.cancelled:
            raise JobCancelled(job=self.id)


def _number(name: str, value: object) -> float:
    if isinstance(value, int) and abs(value) < 2**53:
        return int(value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentTypeError(f"{name} is {value!r:.100}: give a finite number", argument=name)
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
