"""Which values travel between the modules? A job, its states, its task's options, the outcome of an attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum, StrEnum
from hashlib import sha256
from os import urandom
from typing import Literal, NamedTuple, TypeVar

from spoolkit.errors import ConfigurationError, shown
from spoolkit.system import clock


class SpoolResult(IntEnum):
    """What a task may return to say what becomes of its job; the values are those of uWSGI.

    They are compared by identity, so that a task may return the plain integers -2, -1 and 0 as results.
    """

    OK = -2
    RETRY = -1
    IGNORE = 0


SPOOL_OK = SpoolResult.OK
SPOOL_RETRY = SpoolResult.RETRY
SPOOL_IGNORE = SpoolResult.IGNORE


class State(StrEnum):
    """The state of a job. :data:`MOVES` says which states may follow."""

    QUEUED = "queued"
    """Accepted, and not started yet; perhaps not due yet."""
    RUNNING = "running"
    """A process runs an attempt of it."""
    RETRYING = "retrying"
    """An attempt failed, and the next one is not due yet."""
    DONE = "done"
    """An attempt succeeded."""
    DEAD = "dead"
    """Out of attempts, or unable to run. It is kept with its arguments, and can be run again."""
    CANCELLED = "cancelled"
    """Somebody cancelled it, its task declared it pointless, or it expired."""
    LOST = "lost"
    """Its process or its file is gone, and nothing is left to run."""


MOVES: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.DEAD, State.CANCELLED, State.LOST}),
    State.RUNNING: frozenset({State.RETRYING, State.DONE, State.DEAD, State.CANCELLED, State.LOST}),
    State.RETRYING: frozenset({State.RUNNING, State.DEAD, State.CANCELLED, State.LOST}),
    State.DEAD: frozenset({State.QUEUED, State.RUNNING, State.CANCELLED}),
    State.DONE: frozenset(),
    State.CANCELLED: frozenset(),
    State.LOST: frozenset({State.RUNNING}),  # its file was found again
}
"""The states that may follow each state."""

FINISHED = frozenset({State.DONE, State.DEAD, State.CANCELLED, State.LOST})
"""The states of a job that is neither running nor going to run by itself."""

FINAL = FINISHED - {State.DEAD}
"""The states of a job of which nothing is left to run: a dead job still has its file, and can be retried."""


class ResultBefore:
    """The type of :data:`RESULT`."""

    def __repr__(self) -> str:
        return "RESULT"


RESULT = ResultBefore()
"""Stands for the result of the job before it among the arguments of a call in ``chain()``."""


NORMAL_PRIORITY = 500
"""The priority of a job for which none is given."""


def new_id() -> str:
    """A new job id: 32 hex digits that sort by time, and are unique across hosts and processes."""
    # In nanoseconds, so that the ids of one process are in the order of its calls: a single spooler runs them in it.
    return f"{int(clock.now() * 1e9):016x}{urandom(8).hex()}"


def first_id(time: float) -> str:
    """A lower bound of the ids of all jobs made after ``time`` (unix time in seconds), up to a second too low."""
    return f"{max(0, int(time) - 1) * 10**9:016x}"


def id_after(id: str, what: str, time: float | None = None) -> str:
    """The id of a job that follows from another one, or from a batch: always the same one for the same arguments.

    Args:
        id: The id from which it follows.
        what: What it is to that one, so that several may follow.
        time: The unix time in seconds by which the id is sorted; ``None``: that of ``id``.
    """
    begin = id[:16] if time is None else f"{int(time * 1e9):016x}"
    return begin + sha256(f"{id} {what}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JobSpec:
    """One call of a task, as it was when it was made."""

    #: 32 hex digits, which sort by time.
    id: str
    #: The name of the task, by default ``module.function``.
    task: str
    #: The positional arguments, as the task gets them.
    args: tuple[object, ...] = field(default=(), repr=False)  # nor others made of values, which may be secret
    #: The arguments by name, as the task gets them.
    kwargs: Mapping[str, object] = field(default_factory=dict, repr=False)
    #: The name of the engine that carries the job: ``spool``, ``celery``, ``thread`` or ``inline``.
    engine: str = "spool"
    #: When it was enqueued, unix time in seconds (UTC).
    enqueued_at: float = 0.0
    #: The time before which it does not start, unix time in seconds (UTC). ``None``: it may start at once.
    run_at: float | None = None
    #: Its queue: the name, or the absolute path of a spool directory without a name. ``None``: the default one.
    queue: str | None = None
    #: Its priority, 0 to 999; lower ones run first. ``None``: :data:`NORMAL_PRIORITY`.
    priority: int | None = None
    #: The name of the application in whose context it runs, where the process has several. ``None``: the latest one.
    app: str | None = None
    #: The time from which on no attempt of it starts, unix time in seconds (UTC). ``None``: it does not expire.
    expires_at: float | None = None
    #: How many attempts may follow the first one. ``None``: as many as its task says.
    retries: int | None = None
    #: Seconds before its next attempt. ``None``: those of its task.
    backoff: float | None = None
    #: Seconds after which :class:`~spoolkit.errors.JobTimeout` is raised in it. ``None``: those of its task.
    timeout: float | None = None
    #: The texts by which it is found. ``None``: it has none.
    tags: tuple[str, ...] | None = None
    #: The name of the schedule of a periodic task that made it, for ``run_at``. ``None``: a call made it.
    schedule: str | None = None
    #: What its call has sent along, such as the id of the request. ``None``: nothing.
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    #: Whether it is a periodic run that starts late, as after a downtime. Only the process that runs it knows.
    is_late: bool = field(default=False, repr=False, compare=False)
    #: Seconds after the first call of a unique job beyond which later calls do not put it off. ``None``: no limit.
    max_wait: float | None = None
    #: Whether another call has made the job: one with the same key, of a task that is unique. Of a call that waits for
    #: a commit it is known after that, and then there is no job with this id.
    duplicate: bool = False
    #: The key of its task's :class:`Limit`: so many jobs with this key run at once. ``None``: no limit.
    limit_key: str | None = field(default=None, repr=False)
    #: The id of the batch of which it is a member or the callback. ``None``: it has nothing to do with a batch.
    batch: str | None = None
    #: The calls that follow it in its chain, each as the bytes of a spool file. ``None``: no call follows.
    chain: tuple[bytes, ...] | None = field(default=None, repr=False)
    #: Of a call in a chain that is not made yet: the arguments that :data:`RESULT` stands for, by position or by name.
    result_at: tuple[int | str, ...] | None = None
    #: The key of its task's :class:`Rate`: so many jobs with this key start in a time. ``None``: no rate.
    rate_key: str | None = field(default=None, repr=False)
    #: Whether its task is unique. Only the file of a job that waits for a commit says so: its key is taken then.
    is_unique: bool | None = None

    def __init__(
        self,
        id: str,
        task: str,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
        engine: str = "spool",
        enqueued_at: float = 0.0,
        run_at: float | None = None,
        queue: str | None = None,
        priority: int | None = None,
        app: str | None = None,
        **options: object,
    ) -> None:
        # That of a frozen dataclass calls object.__setattr__() for each field: this is four times as fast.
        vars(self).update(
            id=id,
            task=task,
            args=args,
            kwargs={} if kwargs is None else kwargs,
            engine=engine,
            enqueued_at=enqueued_at,
            run_at=run_at,
            queue=queue,
            priority=priority,
            app=app,
        )
        # A field that is not given here has its default from the class, and costs nothing.
        if options:
            if unknown := options.keys() - type(self).__dataclass_fields__.keys():
                raise TypeError(f"a job has no {', '.join(sorted(unknown))}")
            vars(self).update(options)

    @property
    def has_file(self) -> bool:
        """Whether a file in a spool directory carries the job; otherwise it exists in one process only."""
        return _has_file(self.engine)

    @property
    def runs_elsewhere(self) -> bool:
        """Whether its attempts run in workers, perhaps on other machines, and its file waits here for their end."""
        return self.engine == "celery"


AnyJob = TypeVar("AnyJob", bound=JobSpec)
"""A :class:`JobSpec` or one of its subclasses, the same one as that of the argument."""


_FIELDS_OF_EACH = 10
"""How many fields each job has in its ``__dict__``: those that ``JobSpec.__init__`` names."""


def is_plain(job: JobSpec | Status) -> bool:
    """Whether the job has none but the fields that each job has. It costs one step, for all of the others together."""
    return len(job.__dict__) == _FIELDS_OF_EACH


def replaced(job: AnyJob, **fields: object) -> AnyJob:
    """Return a copy of a job with other values in some fields, as ``dataclasses.replace()``, but six times as fast."""
    copy = object.__new__(type(job))
    vars(copy).update(vars(job), **fields)
    return copy


Backoff = float | Callable[[int], float | timedelta]
"""Seconds before the next attempt, or a function that returns them for the number of the attempt that failed."""


Until = Literal["end", "start"]
"""How long a job holds its key: until it is over, or until its first attempt starts."""

OnDuplicate = Literal["return", "raise", "replace"]
"""What happens to a call whose key another job holds."""


@dataclass(frozen=True)
class Unique:
    """There is one job at a time of those calls of a task that have the same key."""

    #: What the key is made of: ``True``: all arguments; or the names of some; or a function of those that it names.
    key: Literal[True] | tuple[str, ...] | Callable[..., object] = True
    #: How long a job holds its key.
    until: Until = "end"
    #: What happens to a call whose key another job holds.
    on_duplicate: OnDuplicate = "return"


@dataclass(frozen=True)
class Limit:
    """How many jobs run at the same time: of a task, or of a task for each value of a key.

    The jobs are counted over all processes of the host, when an attempt starts. One that finds no room is parked, in
    the order of the due times, and comes back when another job with its key ends or dies. A thread job waits in memory.

    Raises:
        ConfigurationError: ``number`` or ``key`` cannot be used.
    """

    #: How many jobs with one key run at once, at most.
    number: int
    #: Returns the key of a job. It is called with those arguments of the job that have the names of its own parameters,
    #: defaults included. ``None``: all jobs of the task have the same key.
    key: Callable[..., object] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if type(self.number) is not int or self.number < 1:
            raise ConfigurationError(f"limit is {shown(self.number)}: give a number, one or more", setting="limit")
        if self.key is not None and not callable(self.key):
            problem = f"key is {shown(self.key)}: give a function, such as lambda user_id: user_id"
            raise ConfigurationError(problem, setting="limit")


@dataclass(frozen=True)
class Rate:
    """How often jobs start: of a task, or of a task for each value of a key.

    A job for which there is no slot yet is put off to the next free one.

    Raises:
        ConfigurationError: An argument cannot be used.
    """

    #: How many jobs with one key start in ``per`` seconds.
    number: int
    #: Seconds, or a timedelta.
    per: float | timedelta = field(kw_only=True)
    #: How many may start at once after a pause. With 1 they are spread evenly.
    burst: int = field(default=1, kw_only=True)
    #: As for :class:`Limit`.
    key: Callable[..., object] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name, value in (("number", self.number), ("burst", self.burst)):
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name} of rate is {shown(value)}: give one or more", setting="rate")
        if isinstance(self.per, bool) or not isinstance(self.per, (int, float, timedelta)) or not self._seconds > 0:
            problem = f"per is {shown(self.per)}: give seconds or a timedelta, more than zero"
            raise ConfigurationError(problem, setting="rate")
        if self.key is not None and not callable(self.key):
            problem = f"key is {shown(self.key)}: give a function, such as lambda user_id: user_id"
            raise ConfigurationError(problem, setting="rate")

    @property
    def _seconds(self) -> float:
        return self.per.total_seconds() if isinstance(self.per, timedelta) else self.per

    @property
    def interval(self) -> float:
        """Seconds from one start to the next, on average."""
        return self._seconds / self.number


@dataclass(frozen=True)
class TaskOptions:
    """How the jobs of a task are run."""

    #: How many attempts may follow the first one.
    retries: int = 5
    #: Seconds between two attempts. ``None``: 2 s, doubling each time, with jitter, up to one hour.
    backoff: Backoff | None = None
    #: Seconds after which :class:`~spoolkit.errors.JobTimeout` is raised in the task. ``None``: no timeout.
    timeout: float | None = None
    #: The exceptions after which another attempt is made; after any other one the job is dead.
    retry_on: tuple[type[BaseException], ...] = (BaseException,)
    #: The exceptions after which the job is pointless: it ends as cancelled.
    discard_on: tuple[type[BaseException], ...] = ()
    #: Bytes of memory that an attempt may take, beyond what its process has before. ``None``: no limit.
    memory: int | None = None
    #: Which of its calls there is one job of at a time. ``None``: each call makes a job.
    unique: Unique | None = None
    #: The queue of its jobs: a name of ``SPOOLKIT_QUEUES``, or a spool directory. ``None``: the default one.
    queue: str | None = None
    #: How many of its jobs run at once. ``None``: any number.
    limit: Limit | None = None
    #: The priority of its jobs, 0 to 999; lower ones run first. ``None``: :data:`NORMAL_PRIORITY`.
    priority: int | None = None
    #: How often its jobs start. ``None``: at any time.
    rate: Rate | None = None
    #: The engine that carries its jobs, ``spool`` or ``celery``. ``None``: ``SPOOLKIT_ENGINE``, as it is at the call.
    engine: str | None = None

    @property
    def attempts(self) -> int:
        """How many attempts a job may have, the first one included."""
        return self.retries + 1


Ending = Literal[
    "failed", "retry", "timeout", "crashed", "aborted", "discarded", "cancelled", "interrupted", "expired", "skipped"
]
"""How an attempt ended that did not complete its job; the last two: how a job ended before an attempt could start."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt did not complete its job."""

    #: The message of the exception, or another reason.
    message: str
    #: The name of the exception's type, if there was an exception.
    type: str | None = None
    #: The traceback of the task, if there was an exception.
    traceback: str | None = None
    #: How the attempt ended.
    ending: Ending = "failed"

    def __str__(self) -> str:
        return self.message if self.type is None else f"{self.type}: {self.message}"


@dataclass(frozen=True)
class Done:
    """The attempt completed the job."""

    #: What the task returned.
    result: object = None


@dataclass(frozen=True)
class RetryAt:
    """The job runs again."""

    #: The time before which it does not run, unix time in seconds (UTC).
    time: float
    #: Why it runs again.
    failure: Failure


@dataclass(frozen=True)
class Dead:
    """The job cannot run, or may not run again. It is kept with the reason, as a dead letter."""

    #: Why it is dead.
    failure: Failure


@dataclass(frozen=True)
class Cancelled:
    """The job was cancelled, its task declared it pointless, or it expired."""

    #: Why it does not run.
    failure: Failure


Outcome = Done | RetryAt | Dead | Cancelled


@dataclass(frozen=True)
class Progress:
    """How far a running job is, as the job itself reports it."""

    #: How much is done, in a unit of the job's own.
    done: float
    #: How much there is to do, in the same unit. ``None``: unknown.
    total: float | None = None
    #: A text for people.
    note: str = ""


class Bill(NamedTuple):
    """What an attempt took of its process. ``None``: not known, as where the process died."""

    #: Seconds of processor time, of the user and of the system: that of the process, and of its children that have
    #: ended; for a thread job that of its thread.
    cpu: float | None = None
    #: The most bytes of physical memory that its process had meanwhile, all in all, to about a megabyte: of an attempt
    #: that adds nothing to what the process has, that. ``None`` for a thread job, which shares its process.
    memory: int | None = None


@dataclass(frozen=True)
class Attempt:
    """One run of a job."""

    #: Counted from 1.
    number: int
    #: Unix time in seconds (UTC).
    started_at: float
    #: Unix time in seconds (UTC); ``None`` while it runs.
    finished_at: float | None = None
    #: ``running``, ``done`` or an :data:`Ending`.
    outcome: str = "running"
    #: The process that runs it, or ran it.
    pid: int | None = None
    #: The name of the type of the exception that ended it.
    error_type: str | None = None
    #: The message of that exception, or another reason.
    message: str | None = None
    #: The traceback of the task.
    traceback: str | None = None
    #: The last 64 KiB of what the task printed and logged.
    log: str = ""
    #: Seconds from when it was due to its start. ``None``: not known.
    waited: float | None = None
    #: See :attr:`Bill.cpu`.
    cpu: float | None = None
    #: See :attr:`Bill.memory`.
    memory: int | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to a job apart from its attempts."""

    #: Unix time in seconds (UTC).
    time: float
    #: What happened: ``retried``, ``run now``, ``cancel asked`` and the like.
    kind: str
    #: Who did it: a user of the page, or of the machine; ``None``: not known.
    by: str | None = None
    #: Why, if it is known.
    message: str | None = None
    #: The id of the other job that it is about, as of one that was made from this one.
    job: str | None = None


@dataclass(frozen=True)
class Status:
    """What is known of a job, from its file and its record together."""

    #: 32 hex digits; for a dead file that is not spoolkit's, the name of the file.
    id: str
    #: The name of the task; ``None`` where the file does not say it.
    task: str | None
    #: The state of the job.
    state: State
    #: The name of the engine that carries it.
    engine: str = "spool"
    #: Its queue: the name, or the absolute path of a spool directory without a name. ``None``: the default one.
    queue: str | None = None
    #: The name that its file had when it was last claimed.
    file: str | None = None
    #: How many attempts were started.
    attempt: int = 0
    #: How many attempts it may have; ``None`` before the first one.
    max_attempts: int | None = None
    #: When it was enqueued, unix time in seconds (UTC).
    enqueued_at: float | None = None
    #: The time before which its next attempt does not start, unix time in seconds (UTC).
    run_at: float | None = None
    #: The time from which on no attempt of it starts, unix time in seconds (UTC).
    expires_at: float | None = None
    #: The ``retries`` of its call; ``None`` where the call named none.
    retries: int | None = None
    #: The ``backoff`` of its call, in seconds; ``None`` where the call named none.
    backoff: float | None = None
    #: The ``timeout`` of its call, in seconds; ``None`` where the call named none.
    timeout: float | None = None
    #: The texts by which it is found; ``None`` where it has none.
    tags: tuple[str, ...] | None = None
    #: When its last attempt started, unix time in seconds (UTC).
    started_at: float | None = None
    #: When its last attempt ended, unix time in seconds (UTC).
    finished_at: float | None = None
    #: The process that runs it, or ran it last.
    pid: int | None = None
    #: What the job last reported.
    progress: Progress | None = None
    #: What the task returned, encoded.
    result: bytes | None = field(default=None, repr=False)
    #: Why there is no result although the job is done.
    result_error: str | None = None
    #: The name of the type of the exception that ended the last attempt.
    error_type: str | None = None
    #: The message of that exception, or another reason.
    error_message: str | None = None
    #: How the last attempt ended, an :data:`Ending`; ``None`` where it completed the job.
    ending: str | None = None
    #: Whether somebody asked the running job to stop.
    cancel_asked: bool = False
    #: What the call has sent along. ``None``: nothing.
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    #: The id of the batch of which it is a member or the callback.
    batch: str | None = None
    #: The key of its task's limit, of a job that was claimed.
    limit_key: str | None = field(default=None, repr=False)
    #: The key of the limit under which it waits for room; ``None``: it does not wait for that.
    parked_for: str | None = field(default=None, repr=False)
    #: Whether it waits until its task is resumed.
    paused: bool = False
    #: When the rate of its task lets it start, unix time in seconds (UTC); ``None``: it does not wait for that.
    slot_at: float | None = None

    @property
    def has_file(self) -> bool:
        """Whether a file in a spool directory carries the job; otherwise it exists in one process only."""
        return _has_file(self.engine)

    @property
    def runs_elsewhere(self) -> bool:
        """Whether its attempts run in workers, perhaps on other machines, and its file waits here for their end."""
        return self.engine == "celery"


def of_status(kind: type[AnyJob], found: Status) -> AnyJob:
    """Return the job of which this is known, without its arguments."""
    return kind(
        found.id,
        found.task or "?",
        engine=found.engine,
        enqueued_at=found.enqueued_at or 0.0,
        run_at=found.run_at,
        queue=found.queue,
        expires_at=found.expires_at,
        retries=found.retries,
        backoff=found.backoff,
        timeout=found.timeout,
        headers=found.headers,
        batch=found.batch,
        tags=found.tags,
    )


OnDeath = Literal["wait", "cancel"]
"""What a death does to the other members of a batch: nothing, or it cancels those that have not ended."""


@dataclass(frozen=True)
class BatchStatus:
    """What is known of a batch."""

    #: 32 hex digits.
    id: str
    #: The name that the application gave it.
    name: str
    #: When it was accepted, unix time in seconds (UTC).
    created_at: float
    #: When the last of its members ended, unix time in seconds (UTC). ``None``: some have not ended.
    completed_at: float | None
    #: How often it was complete: again after a dead member was retried.
    generation: int
    #: What a death does to the other members.
    on_death: OnDeath
    #: The id of the job of the latest callback. ``None``: there is none yet, or the batch has no callback.
    callback: str | None
    #: How many members are in each state. Members that have not started are ``queued``.
    members: Mapping[State, int]


def _has_file(engine: str) -> bool:
    return engine in ("spool", "celery")
