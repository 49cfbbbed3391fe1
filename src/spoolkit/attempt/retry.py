"""What follows from how an attempt ended? Pure: no input or output, and time and chance are arguments."""

from __future__ import annotations

import traceback
from dataclasses import replace
from datetime import timedelta

from spoolkit.errors import Abort, JobCancelled, JobTimeout, Retry
from spoolkit.job import (
    SPOOL_IGNORE,
    SPOOL_OK,
    SPOOL_RETRY,
    Cancelled,
    Dead,
    Done,
    Ending,
    Failure,
    Outcome,
    RetryAt,
    TaskOptions,
)
from spoolkit.times import MAX_AHEAD

FIRST = 2.0
"""Seconds between the first attempt and the second, by default; doubled for each further attempt."""

CEILING = 3600.0
"""Seconds between two attempts, at most, by default."""

TEXT_LIMIT = 64 * 1024
"""Characters of an error's message, and of its traceback, that are stored at most."""

SPREAD = 0.25
"""The share of the delay that is added at random, so that jobs that failed together do not retry together."""


def decide(
    options: TaskOptions, attempt: int, returned: object, error: BaseException | None, *, now: float, jitter: float
) -> Outcome:
    """Decide the outcome of an attempt.

    ``SPOOL_RETRY`` and ``SPOOL_IGNORE`` are recognised by identity, so that a task may return -1 and 0 as results.

    Args:
        options: How the task's jobs are run.
        attempt: The number of the attempt, from 1.
        returned: What the task returned.
        error: What it raised, if it did.
        now: The time, in unix seconds (UTC).
        jitter: A random number from 0 to 1.

    Returns:
        What follows for the job.
    """
    if error is None:
        if returned is not SPOOL_RETRY and returned is not SPOOL_IGNORE:
            return Done(None if returned is SPOOL_OK else returned)
        failure = Failure(f"the task returned SPOOL_{returned.name}", ending="retry")
        return after_failure(options, attempt, failure, now=now, jitter=jitter)
    failure = Failure(message_of(error), type(error).__name__, describe(error), _ending(options, error))
    match failure.ending:
        case "cancelled" | "discarded":
            return Cancelled(failure)
        case "aborted":
            return Dead(replace(failure, type="Abort"))
        case "failed" if not isinstance(error, options.retry_on):
            return Dead(replace(failure, message=f"{failure.message} (not among the task's retry_on)"))
        case _:
            delay = error.delay if isinstance(error, Retry) else None
            return after_failure(options, attempt, failure, now=now, jitter=jitter, delay=delay)


def after_failure(
    options: TaskOptions, attempt: int, failure: Failure, *, now: float, jitter: float, delay: float | None = None
) -> Outcome:
    """Decide on another attempt, or, if none is left, that the job is dead.

    Args:
        options: How the task's jobs are run.
        attempt: The number of the attempt that failed, from 1.
        failure: Why it failed.
        now: The time, in unix seconds (UTC).
        jitter: A random number from 0 to 1.
        delay: Seconds until the next attempt; ``None``: the task's backoff.

    Returns:
        A ``RetryAt`` or a ``Dead``.
    """
    if attempt >= options.attempts:
        return Dead(failure)
    if delay is None:
        delay, complaint = backoff(options, attempt, jitter)
        if complaint:
            failure = replace(failure, message=f"{failure.message} ({complaint})")
    # File systems cannot store a time that is arbitrarily far ahead.
    return RetryAt(now + min(delay, MAX_AHEAD), failure)


def backoff(options: TaskOptions, attempt: int, jitter: float) -> tuple[float, str]:
    """Return the seconds until the next attempt, and what is wrong with the task's own ``backoff``.

    Args:
        options: How the task's jobs are run.
        attempt: The number of the attempt that failed, from 1.
        jitter: A random number from 0 to 1.
    """
    own, complaint = options.backoff, ""
    if callable(own):
        try:
            delay = own(attempt)
            own = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
            if not 0 <= own < float("inf"):
                raise ValueError(f"it returned {own!r}")
        except BaseException as error:  # it is the application's code
            own, complaint = None, f"its backoff({attempt}) failed: {type(error).__name__}: {message_of(error)}"
    if own is not None:
        return own, complaint
    # The exponent is bounded: 2.0 ** 1024 is an OverflowError.
    return min(FIRST * 2.0 ** min(attempt - 1, 60) * (1 + SPREAD * jitter), CEILING), complaint


def _ending(options: TaskOptions, error: BaseException) -> Ending:
    # What the task raised to steer its job comes first, and discard_on before all else.
    if isinstance(error, Retry):
        return "retry"
    if isinstance(error, Abort):
        return "aborted"
    if isinstance(error, JobCancelled):
        return "cancelled"
    if isinstance(error, options.discard_on):
        return "discarded"
    return "timeout" if isinstance(error, JobTimeout) else "failed"


def message_of(error: BaseException) -> str:
    """Return ``str(error)``, which runs the application's code and may raise, in :data:`TEXT_LIMIT` characters."""
    try:
        return _cut(str(error))
    except BaseException:
        return "(its message cannot be read)"


def describe(error: BaseException) -> str:
    """Return the error with its traceback, as text."""
    try:
        return _cut("".join(traceback.format_exception(error)))
    except BaseException:  # of its own __str__() or of its notes
        return f"{type(error).__name__}: (its traceback cannot be read)\n"


def _cut(text: str) -> str:
    half = TEXT_LIMIT // 2
    return text if len(text) <= TEXT_LIMIT else f"{text[:half]}\n[...]\n{text[-half:]}"
