"""One attempt: the function, in an application context, with ``current_job()``. Knows no engine."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from spoolkit import clock, retry
from spoolkit.errors import NoCurrentJobError, Retry
from spoolkit.job import Job, Outcome, RetryAt
from spoolkit.registry import Declared

log = logging.getLogger("spoolkit")

_current: ContextVar[Job] = ContextVar("spoolkit.current_job")
_application: Callable[[], AbstractContextManager[object]] = nullcontext


def current_job() -> Job:
    """The job that is running here. Raises :class:`NoCurrentJobError` outside of one."""
    try:
        return _current.get()
    except LookupError:
        raise NoCurrentJobError("current_job() is for the inside of a running task") from None


def use_application(context: Callable[[], AbstractContextManager[object]]) -> None:
    """Run every attempt within ``context()``, the application's context."""
    global _application
    _application = context


@contextmanager
def running(job: Job) -> Iterator[None]:
    """Within it, ``job`` is the current job."""
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)


def attempt(job: Job, declared: Declared, *, retry_delay: float) -> Outcome:
    """Run ``job`` once and say what follows. Never raises: ``sys.exit()`` in a task is a failure of the task.

    ``retry_delay`` is in seconds and gives way to the task's own.
    """
    returned: object = None
    error: BaseException | None = None
    try:
        with _application(), running(job):
            returned = declared.function(*job.args, **job.kwargs)
    except BaseException as raised:
        error = raised
    delay = declared.options.retry_delay
    outcome = retry.decide(returned, error, retry_delay=retry_delay if delay is None else delay, now=clock.now())
    if isinstance(outcome, RetryAt):
        trace = None if error is None or isinstance(error, Retry) else error
        log.warning("job %s of %s did not finish: %s", job.id, job.task, outcome.reason, exc_info=trace)
    return outcome


def describe(error: BaseException) -> str:
    """The error with its traceback, as text."""
    return "".join(traceback.format_exception(error))
