"""The values that travel: a job, a task's options, the outcome of an attempt."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from spoolkit import clock


class SpoolResult(IntEnum):
    """What a task may return to steer its own job, with uWSGI's values.

    They are members of their own, told apart by identity: a task may return the plain
    integers -2, -1 and 0 as results.
    """

    OK = -2
    RETRY = -1
    IGNORE = 0


SPOOL_OK = SpoolResult.OK
SPOOL_RETRY = SpoolResult.RETRY
SPOOL_IGNORE = SpoolResult.IGNORE


def new_id() -> str:
    """A fresh job id: 32 hex digits that sort by time, and are unique across hosts and processes."""
    # To the nanosecond: jobs of one process run in the order of its calls, where one spooler serves them.
    return f"{int(clock.now() * 1e9):016x}{secrets.token_hex(8)}"


@dataclass(frozen=True)
class Job:
    """One call of a task, frozen when it was made.

    ``id``           32 hex digits; sorts by time
    ``task``         the task's name, ``module.function``
    ``args``, ``kwargs``  the arguments, as the task will get them
    ``engine``       what carries it: ``spool``, ``thread`` or ``inline``
    ``enqueued_at``  unix time in seconds (UTC)
    ``run_at``       unix time in seconds (UTC) before which it does not start; ``None``: at once
    ``queue``        the spool directory, absolute; ``None``: the one in use
    ``priority``     uWSGI's priority, lower first; ``None``: none
    """

    id: str
    task: str
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    engine: str = "spool"
    enqueued_at: float = 0.0
    run_at: float | None = None
    queue: str | None = None
    priority: int | None = None


@dataclass(frozen=True)
class TaskOptions:
    """How a task's jobs are run.

    ``retry_delay``  seconds before a failed job runs again; ``None``: ``SPOOLKIT_RETRY_DELAY``
    """

    retry_delay: float | None = None


@dataclass(frozen=True)
class Done:
    """The attempt finished the job."""

    result: object = None


@dataclass(frozen=True)
class RetryAt:
    """The job runs again, not before ``time`` (unix seconds, UTC)."""

    time: float
    reason: str


@dataclass(frozen=True)
class Dead:
    """The job cannot run. It is kept, with its reason, for a person to look at."""

    reason: str
    traceback: str | None = None


Outcome = Done | RetryAt | Dead
