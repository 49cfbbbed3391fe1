"""What does the log say of a job? One line when an attempt starts, one when it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spoolkit.encoding import redact
from spoolkit.job import Cancelled, Dead, Done, JobSpec, Outcome, RetryAt
from spoolkit.settings import Settings
from spoolkit.system import clock, log, process

HEADER_LIMIT = 200
"""Characters of a header's value that each line of a job holds, at most."""

MESSAGE_LIMIT = 1000
"""Characters of an error's message that a line holds, at most: the traceback has all of it."""


def about(job: JobSpec, config: Settings) -> log.about:
    """Return a context manager: in its ``with`` block, log lines belong to ``job``."""
    if not (headers := job.headers):
        return log.about(job.id, job.task)
    names = [name for name in config.log_headers if name in headers]
    texts = [redact.REDACTED if redact.is_secret(name) else headers[name][:HEADER_LIMIT] for name in names]
    return log.about(job.id, job.task, " ".join(map("=".join, zip(names, texts, strict=True))))


def started(job: JobSpec, attempt: int, max_attempts: int, *, tracked: bool = True) -> float:
    """Log that an attempt starts.

    Args:
        job: The job.
        attempt: The number of the attempt, from 1.
        max_attempts: How many attempts the job may have.
        tracked: Whether the job is recorded.

    Returns:
        The time of the monotonic clock, in seconds.
    """
    text = "job %s of %s starts: attempt %d of %d, in process %d"
    _level(tracked)(text, job.id, job.task, attempt, max_attempts, process.pid())
    return time.monotonic()


@dataclass(slots=True)  # made for each job in half the time that a NamedTuple takes
class Took:
    """Which attempt it was, and how long it took. It becomes a text only in a line that is written."""

    #: The number of the attempt, from 1.
    attempt: int
    #: How many attempts the job may have.
    max_attempts: int
    #: How many seconds it took.
    seconds: float

    def __str__(self) -> str:
        return f" (attempt {self.attempt} of {self.max_attempts}, {self.seconds:.3f} s)"


def ended(
    job: JobSpec,
    outcome: Outcome,
    error: BaseException | None = None,
    attempt: Took | str = "",
    *,
    tracked: bool = True,
) -> None:
    """Log the outcome of an attempt.

    Args:
        job: The job.
        outcome: What follows from the attempt.
        error: What the task raised; without it, the traceback of the outcome's failure is logged.
        attempt: What is added to the line.
        tracked: Whether the job is recorded.
    """
    match outcome:
        case Done():
            _level(tracked)("job %s of %s is done%s", job.id, job.task, attempt)
        case RetryAt(at, failure):
            text, wait = "job %s of %s runs again in %.1f s: %s%s", max(0.0, at - clock.now())
            reason, details = str(failure)[:MESSAGE_LIMIT], failure.traceback or ""
            log.warning(text, job.id, job.task, wait, reason, attempt, error=error, details=details)
        case Dead(failure):
            hint = "; `flask spool retry` runs it again" if job.has_file else ""
            text, reason, details = (
                f"job %s of %s is dead: %s%s{hint}",
                str(failure)[:MESSAGE_LIMIT],
                failure.traceback or "",
            )
            log.error(text, job.id, job.task, reason, attempt, error=error, details=details)
        case Cancelled(failure):
            log.warning("job %s of %s is cancelled: %s%s", job.id, job.task, str(failure)[:MESSAGE_LIMIT], attempt)


def _level(tracked: bool) -> Callable[..., None]:
    # Untracked jobs may come thousands of times a second: to write their lines, the threads would wait for each other.
    return log.info if tracked else log.debug


def threads_left(job: JobSpec, names: list[str]) -> None:
    """Log that threads with these names are still running after the job."""
    text = "job %s of %s left threads behind, which run on in process %d beside the next job: %s"
    log.info(text, job.id, job.task, os.getpid(), ", ".join(names[:10]))


def damaged(job: JobSpec, reasons: Iterable[str]) -> None:
    """Log what ``job`` has broken in this process, which must not be ended because it does more than run jobs."""
    text = "job %s of %s damaged process %d, which it shares with others: %s; restart that process"
    log.error(text, job.id, job.task, os.getpid(), "; ".join(reasons))


def replaced(job: str | None, reasons: Iterable[str]) -> None:
    """Log that this process ends because of what ``job`` has broken in it."""
    text = "process %d is replaced because %s left it unfit for another job: %s"
    log.error(text, os.getpid(), job or "a job", "; ".join(reasons))
