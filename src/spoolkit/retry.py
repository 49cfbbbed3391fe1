"""What follows from how an attempt ended. Pure."""

from __future__ import annotations

from spoolkit.errors import Retry
from spoolkit.job import SPOOL_IGNORE, SPOOL_RETRY, Done, Outcome, RetryAt


def decide(returned: object, error: BaseException | None, *, retry_delay: float, now: float) -> Outcome:
    """The outcome of an attempt that returned ``returned`` or raised ``error``.

    ``retry_delay`` is in seconds, ``now`` is unix time. ``SPOOL_RETRY`` and ``SPOOL_IGNORE`` are told by identity,
    so that a task may return the integers -1 and 0 as results.
    """
    if isinstance(error, Retry):
        return RetryAt(now + (retry_delay if error.delay is None else error.delay), str(error))
    if error is not None:
        return RetryAt(now + retry_delay, f"{type(error).__name__}: {error}")
    if returned is SPOOL_RETRY or returned is SPOOL_IGNORE:
        return RetryAt(now + retry_delay, f"the task returned SPOOL_{returned.name}")
    return Done(returned)
