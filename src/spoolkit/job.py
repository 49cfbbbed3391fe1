"""The values that travel: a job, its states, a task's options, the outcome of an attempt."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum, StrEnum
from typing import Literal, TypeVar

from spoolkit.system import clock


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


class State(StrEnum):
    """Where a job stands. Each may become only what :data:`MOVES` says."""

    QUEUED = "queued"
    """Accepted, never started; perhaps not due yet."""
    RUNNING = "running"
    """An attempt is going on."""
    RETRYING = "retrying"
    """An attempt failed, the next one waits for its time."""
    DONE = "done"
    DEAD = "dead"
    """Out of attempts, or cannot run. Kept with its arguments; can be run again."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its process went away, or its file did, with nothing left to run."""


MOVES: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.DEAD, State.CANCELLED, State.LOST}),
    State.RUNNING: frozenset({State.RETRYING, State.DONE, State.DEAD, State.CANCELLED, State.LOST}),
    State.RETRYING: frozenset({State.RUNNING, State.DEAD, State.CANCELLED, State.LOST}),
    State.DEAD: frozenset({State.QUEUED, State.RUNNING, State.CANCELLED}),
    State.DONE: frozenset(),
    State.CANCELLED: frozenset(),
    State.LOST: frozenset({State.RUNNING}),  # its file was found again
}

FINISHED = frozenset({State.DONE, State.DEAD, State.CANCELLED, State.LOST})
"""The states of a job of which no attempt runs or is due."""

FINAL = FINISHED - {State.DEAD}
"""The states of a job of which nothing is left to run: a dead job still has its file, and can be retried."""


def new_id() -> str:
    """A fresh job id: 32 hex digits that sort by time, and are unique across hosts and processes."""
    # To the nanosecond: jobs of one process run in the order of its calls, where one spooler serves them.
    return f"{int(clock.now() * 1e9):016x}{secrets.token_hex(8)}"


def first_id(time: float) -> str:
    """What the ids of all jobs are greater than that were made after ``time`` (unix seconds), give or take a second."""
    return f"{max(0, int(time) - 1) * 10**9:016x}"


@dataclass(frozen=True)
class JobSpec:
    """One call of a task, frozen when it was made.

    ``id``           32 hex digits; sorts by time
    ``task``         the task's name, ``module.function``
    ``args``, ``kwargs``  the arguments, as the task will get them
    ``engine``       what carries it: ``spool``, ``thread`` or ``inline``
    ``enqueued_at``  unix time in seconds (UTC)
    ``run_at``       unix time in seconds (UTC) before which it does not start; ``None``: at once
    ``queue``        the spool directory, absolute; ``None``: the one in use
    ``priority``     uWSGI's priority, lower first; ``None``: none
    ``app``          the application in whose context it runs, where several are served; ``None``: the one made last
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
    app: str | None = None

    @property
    def has_file(self) -> bool:
        """Whether a file in a spool directory carries the job; otherwise it exists in one process only."""
        return _has_file(self.engine)


AnyJob = TypeVar("AnyJob", bound=JobSpec)
"""A :class:`JobSpec` or one of its subclasses, the same one as that of the argument."""


Backoff = float | Callable[[int], float | timedelta]
"""Seconds before the next attempt: always the same, or what it gives for the number of the attempt that failed."""


@dataclass(frozen=True)
class TaskOptions:
    """How a task's jobs are run.

    ``retries``     how many attempts may follow the first
    ``backoff``     seconds between two attempts; ``None``: from 2 s, doubling, with jitter, up to an hour
    ``timeout``     seconds after which :class:`~spoolkit.errors.JobTimeout` is raised in the task; ``None``: never
    ``retry_on``    the exceptions after which another attempt makes sense; any other makes the job dead at once
    ``discard_on``  the exceptions after which the job is pointless: it ends as cancelled
    """

    retries: int = 5
    backoff: Backoff | None = None
    timeout: float | None = None
    retry_on: tuple[type[BaseException], ...] = (BaseException,)
    discard_on: tuple[type[BaseException], ...] = ()

    @property
    def attempts(self) -> int:
        """How often a job may be started."""
        return self.retries + 1


Ending = Literal["failed", "retry", "timeout", "crashed", "aborted", "discarded", "cancelled", "interrupted"]
"""How an attempt ended that did not finish its job."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt did not finish its job.

    ``type`` names the exception, if there was one.
    """

    message: str
    type: str | None = None
    traceback: str | None = None
    ending: Ending = "failed"

    def __str__(self) -> str:
        return self.message if self.type is None else f"{self.type}: {self.message}"


@dataclass(frozen=True)
class Done:
    """The attempt finished the job."""

    result: object = None


@dataclass(frozen=True)
class RetryAt:
    """The job runs again, not before ``time`` (unix seconds, UTC)."""

    time: float
    failure: Failure


@dataclass(frozen=True)
class Dead:
    """The job cannot run, or not again. It is kept, with its reason, for a person to look at."""

    failure: Failure


@dataclass(frozen=True)
class Cancelled:
    """Nobody wants the job any more."""

    failure: Failure


Outcome = Done | RetryAt | Dead | Cancelled


@dataclass(frozen=True)
class Progress:
    """How far a running job says it is: ``done`` of ``total``, in its own unit."""

    done: float
    total: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Attempt:
    """One run of a job. Times are unix seconds, ``None`` where it goes on; ``outcome`` is ``running``, ``done`` or an
    :data:`Ending`; ``log`` is what it printed and logged, its last 64 KiB.
    """

    number: int
    started_at: float
    finished_at: float | None = None
    outcome: str = "running"
    pid: int | None = None
    error_type: str | None = None
    message: str | None = None
    traceback: str | None = None
    log: str = ""


@dataclass(frozen=True)
class Event:
    """Something else that happened to a job: ``retried``, ``run now``, ``cancel asked`` and the like."""

    time: float
    kind: str


@dataclass(frozen=True)
class Status:
    """What is known of a job: its file and its record, as one.

    Times are unix seconds (UTC). ``file`` is the name that the job's file had when it was last claimed. ``attempt``
    counts the attempts started, ``max_attempts`` those it may have; ``None`` before the first. ``result`` is the value
    in the codec's bytes, ``result_error`` why there is none.
    """

    id: str
    task: str | None
    state: State
    engine: str = "spool"
    queue: str | None = None
    file: str | None = None
    attempt: int = 0
    max_attempts: int | None = None
    enqueued_at: float | None = None
    run_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    pid: int | None = None
    progress: Progress | None = None
    result: bytes | None = None
    result_error: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    ending: str | None = None
    cancel_asked: bool = False

    @property
    def has_file(self) -> bool:
        """Whether a file in a spool directory carries the job; otherwise it exists in one process only."""
        return _has_file(self.engine)


def _has_file(engine: str) -> bool:
    return engine == "spool"
