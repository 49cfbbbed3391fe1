"""The log lines of a job: one when an attempt starts, one when it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from spoolkit.job import Cancelled, Dead, Done, JobSpec, Outcome, RetryAt
from spoolkit.system import clock, log

MESSAGE = 1000
"""Characters of an error's message that a line has at most: the traceback has it whole."""


def started(job: JobSpec, attempt: int, max_attempts: int, *, tracked: bool = True) -> float:
    """Log that an attempt starts; returns the time, on the monotonic clock."""
    text = "job %s of %s starts: attempt %d of %d, in process %d"
    _usual(tracked)(text, job.id, job.task, attempt, max_attempts, os.getpid())
    return time.monotonic()


def took(attempt: int, max_attempts: int, began: float) -> str:
    """Which attempt it was, and how long it took since ``began`` (monotonic), for :func:`ended`."""
    return f" (attempt {attempt} of {max_attempts}, {time.monotonic() - began:.3f} s)"


def ended(
    job: JobSpec, outcome: Outcome, error: BaseException | None = None, attempt: str = "", *, tracked: bool = True
) -> None:
    """Log the outcome of an attempt, with the traceback of ``error``, or with the one that its failure has."""
    match outcome:
        case Done():
            _usual(tracked)("job %s of %s is done%s", job.id, job.task, attempt)
        case RetryAt(at, failure):
            text, wait = "job %s of %s runs again in %.1f s: %s%s", max(0.0, at - clock.now())
            why, details = str(failure)[:MESSAGE], failure.traceback or ""
            log.warning(text, job.id, job.task, wait, why, attempt, error=error, details=details)
        case Dead(failure):
            kept = "; `flask spool retry` runs it again" if job.has_file else ""
            text, why, details = f"job %s of %s is dead: %s%s{kept}", str(failure)[:MESSAGE], failure.traceback or ""
            log.error(text, job.id, job.task, why, attempt, error=error, details=details)
        case Cancelled(failure):
            log.warning("job %s of %s is cancelled: %s%s", job.id, job.task, str(failure)[:MESSAGE], attempt)


def _usual(tracked: bool) -> Callable[..., None]:
    # What is not recorded may come thousands of times a second: its lines would have the threads wait for each other.
    return log.info if tracked else log.debug


def threads_left(job: JobSpec, names: list[str]) -> None:
    """Log that threads run on after the job."""
    text = "job %s of %s left threads behind, which run on in process %d beside the next job: %s"
    log.info(text, job.id, job.task, os.getpid(), ", ".join(names[:10]))


def damaged(job: JobSpec, reasons: Iterable[str]) -> None:
    """Log that ``job`` has damaged this process, which is not ours to end."""
    text = "job %s of %s damaged process %d, which it shares with others: %s; restart that process"
    log.error(text, job.id, job.task, os.getpid(), "; ".join(reasons))


def replaced(job: str | None, reasons: Iterable[str]) -> None:
    """Log that this process ends, for what ``job`` has left behind in it."""
    text = "process %d is replaced, for %s left it unfit for another job: %s"
    log.error(text, os.getpid(), job or "a job", "; ".join(reasons))
