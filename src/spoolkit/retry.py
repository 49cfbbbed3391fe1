"""What follows from how an attempt ended. Pure."""

from __future__ import annotations

from spoolkit.errors import Retry
from spoolkit.job import SPOOL_IGNORE, SPOOL_RETRY, Done, Outcome, RetryAt
from spoolkit.schedule import MAX_AHEAD


def decide(returned: object, error: BaseException | None, *, retry_delay: float, now: float) -> Outcome:
    """The outcome of an attempt that returned ``returned`` or raised ``error``.

    ``retry_delay`` is in seconds, ``now`` is unix time. ``SPOOL_RETRY`` and ``SPOOL_IGNORE`` are told by identity,
    so that a task may return the integers -1 and 0 as results.
    """
    # No file system holds a time that is any number of seconds ahead.
    again = now + min(retry_delay, MAX_AHEAD)
    if isinstance(error, Retry):
        return RetryAt(again if error.delay is None else now + min(error.delay, MAX_AHEAD), _text(error))
    if error is not None:
        return RetryAt(again, f"{type(error).__name__}: {_text(error)}")
    if returned is SPOOL_RETRY or returned is SPOOL_IGNORE:
        return RetryAt(again, f"the task returned SPOOL_{returned.name}")
    return Done(returned)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # of its own __str__(), which is the application's code
        return "(its message cannot be read)"
