"""``@spool``, ``@thread`` and ``@periodic``: how is a function declared as a task, and with which options?"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar, get_args, overload
from zoneinfo import ZoneInfo

from spoolkit import application
from spoolkit.attempt import options as attempt_options
from spoolkit.coordination import limits
from spoolkit.coordination.unique import named_by
from spoolkit.encoding.uwsgi_args import MAX_PRIORITY
from spoolkit.errors import ArgumentError, ConfigurationError, shown
from spoolkit.job import Backoff, Limit, OnDuplicate, Rate, TaskOptions, Unique, Until
from spoolkit.lifecycle import hooks, sweeping
from spoolkit.schedules import declared, ticks
from spoolkit.schedules.schedule import Missed
from spoolkit.schedules.schedule import Overlap as OverlapOfRuns
from spoolkit.settings import DEFAULT_QUEUE, is_queue_name
from spoolkit.spooling import handler, returns
from spoolkit.spooling.engine import SpoolEngine, check_queue
from spoolkit.task import Delay, P, R, SpoolTask, ThreadTask
from spoolkit.threads.engine import Overflow, ThreadEngine, ThreadOptions

T = TypeVar("T")
B = TypeVar("B", Limit, Rate)

Errors = type[BaseException] | Iterable[type[BaseException]]
"""An exception class, or several of them."""

Key = bool | Sequence[str] | Callable[..., object]
"""Of which arguments a key consists."""


class _SpoolDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> SpoolTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SpoolTask[P, R]: ...


@overload
def spool(function: Callable[P, Coroutine[Any, Any, R]], /) -> SpoolTask[P, R]: ...
@overload
def spool(function: Callable[P, R], /) -> SpoolTask[P, R]: ...
@overload
def spool(
    *,
    retries: int = ...,
    backoff: Backoff | timedelta | None = ...,
    timeout: Delay | None = ...,
    retry_on: Errors | None = ...,
    discard_on: Errors = ...,
    memory: int | None = ...,
    unique: Key = ...,
    until: Until = ...,
    on_duplicate: OnDuplicate = ...,
    queue: str | None = ...,
    limit: Limit | None = ...,
    priority: int | None = ...,
    rate: Rate | None = ...,
    engine: str | None = ...,
    name: str | None = ...,
    aliases: Sequence[str] = ...,
) -> _SpoolDecorator: ...
def spool(
    function: Callable[P, R] | None = None,
    /,
    *,
    retries: int = TaskOptions.retries,
    backoff: Backoff | timedelta | None = None,
    timeout: Delay | None = None,
    retry_on: Errors | None = None,
    discard_on: Errors = (),
    memory: int | None = None,
    unique: Key = False,
    until: Until = "end",
    on_duplicate: OnDuplicate = "return",
    queue: str | None = None,
    limit: Limit | None = None,
    priority: int | None = None,
    rate: Rate | None = None,
    engine: str | None = None,
    name: str | None = None,
    aliases: Sequence[str] = (),
) -> Any:
    """Declare a task whose jobs are kept on disk and run by a spooler, until they are done or out of attempts.

    Args:
        retries: How many attempts may follow the first one, after an attempt that failed, returned ``SPOOL_RETRY`` or
            lost its process; 0 to 10,000.
        backoff: Seconds or a timedelta before the next attempt, or a function that returns them for the number of the
            attempt that failed, counted from 1. ``None``: 2 s, doubling each time, with jitter, up to one hour.
        timeout: Seconds or a timedelta after which :class:`JobTimeout` is raised in the task;
            ``SPOOLKIT_TIMEOUT_GRACE`` seconds later its process is killed. ``None``: no timeout.
        retry_on: The exception class, or a list of them, after which another attempt is made; after any other one the
            job is dead. ``None``: all exceptions.
        discard_on: The exception class, or a list of them, after which the job is pointless and ends as cancelled.
        memory: Bytes of memory that an attempt may take, beyond what its spooler has before. More raises
            ``MemoryError`` in the task, and the attempt fails with a :class:`JobMemoryError`. ``None``: no limit.
        unique: Whether there is one job at a time of the calls with the same key. ``True``: the key consists of all
            arguments; a tuple of names: of these arguments; a function: it returns the key, and gets by name those
            arguments that its own signature names. ``False``: each call makes a job.
        until: How long a job holds its key. ``"end"``: until it is done, dead, cancelled or lost. ``"start"``: until
            its first attempt starts.
        on_duplicate: What a call does whose key another job holds. ``"return"``: it returns a handle of that job, whose
            ``duplicate`` is true. ``"raise"``: it raises :class:`DuplicateJobError`. ``"replace"``: that job gets the
            arguments and the due time of the call, if it has not started yet; otherwise as ``"return"``.
        queue: The queue of its jobs, if a call does not say otherwise: a name in ``SPOOLKIT_QUEUES``. ``None``: the
            default one.
        limit: How many jobs run at once, of the task or for each value of a key, such as
            ``Limit(3, key=lambda user_id: user_id)``. ``None``: as many as there are spoolers.
        priority: The priority of its jobs, if a call does not say otherwise, 0 to 999: lower ones run first, and 500 is
            normal. uWSGI needs ``spooler-ordered``.
        rate: How often jobs start, of the task or for each value of a key, such as ``Rate(10, per=60)``. ``None``: at
            any time.
        engine: ``"spool"``: its jobs run in spoolers of this machine. ``"celery"``: in workers of Celery. ``None``: as
            ``SPOOLKIT_ENGINE`` says when a job is called.
        name: The task's name in jobs and records. ``None``: ``module.function``.
        aliases: Names that the task had in earlier versions of the code, whose jobs may still be waiting.

    Returns:
        The task: calling it enqueues a job.

    Raises:
        ConfigurationError: An option has a value that cannot be used, or the function cannot be a task.
    """
    options = _task_options(retries, backoff, timeout, retry_on, discard_on, memory)
    options = replace(
        options,
        unique=_unique(unique, until, on_duplicate),
        queue=_queue(queue),
        limit=_bound(Limit, limit),
        rate=_bound(Rate, rate),
        priority=_priority(priority),
        engine=_engine(engine),
    )
    _check_names(name, aliases)

    def declare(function: Callable[P, R]) -> SpoolTask[P, R]:
        handler.install()
        if limit is not None:
            sweeping.add(limits.sweep)
        if options.engine == "celery":
            returns.start_in_http_processes()  # an application that was made before does not know of this task
        task = SpoolTask(function, SpoolEngine(), options, name, aliases)
        if options.queue is not None and (app := application.current()) is not None:
            check_queue(task.declared, app)
        return task

    return declare if function is None else declare(function)


class _ThreadDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> ThreadTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> ThreadTask[P, R]: ...


@overload
def thread(function: Callable[P, Coroutine[Any, Any, R]], /) -> ThreadTask[P, R]: ...
@overload
def thread(function: Callable[P, R], /) -> ThreadTask[P, R]: ...
@overload
def thread(
    *,
    concurrency: int | None = ...,
    overflow: Overflow = ...,
    track: bool = ...,
    copy_request: bool = ...,
    retries: int = ...,
    backoff: Backoff | timedelta | None = ...,
    timeout: Delay | None = ...,
    retry_on: Errors | None = ...,
    discard_on: Errors = ...,
    limit: Limit | None = ...,
    rate: Rate | None = ...,
    name: str | None = ...,
    aliases: Sequence[str] = ...,
) -> _ThreadDecorator: ...
def thread(
    function: Callable[P, R] | None = None,
    /,
    *,
    concurrency: int | None = None,
    overflow: Overflow = "raise",
    track: bool = True,
    copy_request: bool = False,
    retries: int = 0,
    backoff: Backoff | timedelta | None = None,
    timeout: Delay | None = None,
    retry_on: Errors | None = None,
    discard_on: Errors = (),
    limit: Limit | None = None,
    rate: Rate | None = None,
    name: str | None = None,
    aliases: Sequence[str] = (),
    **of_spool: object,
) -> Any:
    """Declare a task whose jobs run in a bounded pool of threads of the calling process, and are lost with it.

    Args:
        concurrency: How many jobs of this task run at once in one process; 1: one after the other. ``None``: up to
            ``SPOOLKIT_THREADS``.
        overflow: What happens to a call while ``SPOOLKIT_THREAD_QUEUE`` jobs are waiting. ``"raise"``: it raises
            :class:`QueueFull`. ``"spool"``: the job goes to the spooler, as if declared with ``@spool``. ``"run"``: the
            caller runs it.
        track: Whether the jobs are recorded, with their state, result and log.
        copy_request: Whether a job runs in a copy of the request of its call; uploaded files are not part of the copy.
        retries: How many attempts may follow the first one; 0 to 10,000.
        backoff: Seconds or a timedelta before the next attempt, or a function that returns them for the number of the
            attempt that failed, counted from 1. ``None``: 2 s, doubling each time, with jitter, up to one hour. The job
            waits in memory.
        timeout: Seconds or a timedelta after which :class:`JobTimeout` is raised in the task, as soon as Python code
            runs there. ``None``: no timeout.
        retry_on: The exception class, or a list of them, after which another attempt is made; after any other one the
            job is dead. ``None``: all exceptions.
        discard_on: The exception class, or a list of them, after which the job is pointless and ends as cancelled.
        limit: How many jobs run at once in all processes of the host, of the task or for each value of a key, such as
            ``Limit(3, key=lambda user_id: user_id)``. The others wait in memory, without a thread.
        rate: How often jobs start on the host, of the task or for each value of a key, such as ``Rate(10, per=60)``.
        name: The task's name in jobs and records. ``None``: ``module.function``.
        aliases: Names that the task had in earlier versions of the code.
        of_spool: No other option. One of ``@spool`` that needs a file or a process is refused with the reason.

    Returns:
        The task: calling it puts a job into the pool.

    Raises:
        ConfigurationError: An option has a value that cannot be used, or is one of ``@spool``; the function cannot be a
            task; or this uWSGI runs without ``enable-threads``.
    """
    _refuse_options_of_spool(of_spool)
    hooks.check_threads()
    options = _task_options(retries, backoff, timeout, retry_on, discard_on)
    options = replace(options, limit=_bound(Limit, limit), rate=_bound(Rate, rate))
    _refuse_limits_without(options, track, overflow)
    _check_names(name, aliases)
    engine = ThreadEngine(_thread_options(concurrency, overflow, track, copy_request))

    def declare(function: Callable[P, R]) -> ThreadTask[P, R]:
        overflow_engine = None
        if overflow == "spool":
            handler.install()
            if limit is not None:
                sweeping.add(limits.sweep)
            overflow_engine = SpoolEngine()
        return ThreadTask(function, engine, options, name, aliases, overflow_engine)

    return declare if function is None else declare(function)


def periodic(
    *,
    cron: str | None = None,
    every: Delay | None = None,
    tz: str | ZoneInfo | None = None,
    missed: Missed = "once",
    overlap: OverlapOfRuns = "skip",
    max_late: Delay | None = None,
    name: str | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Callable[[T], T]:
    """Have a task of ``@spool`` run by itself: write it above ``@spool``, also several times.

    Each due time is a job with that ``run_at``, so retries, timeouts and the commands are those of any job. Each due
    time has at most one job, and the next one is made before this one runs.

    Args:
        cron: Five fields, as in a crontab: minute, hour, day of the month, month, day of the week. A time of day that
            the clocks skip runs right after the gap; one that comes twice runs once.
        every: Seconds or a timedelta, at least a second. It counts from the epoch (1970, UTC) and not from a start of
            the server: ``every=900`` runs at each quarter of an hour. Exactly one of ``cron`` and ``every``.
        tz: The time zone of ``cron``, such as ``"Europe/Berlin"``. ``None``: UTC.
        missed: What follows for due times at which nothing could run, as after a downtime. ``"once"``: one late run.
            ``"skip"``: none; what starts more than a minute late, or ``max_late``, counts as missed. ``"all"``: each of
            them, but only about the latest 1,000.
        overlap: What becomes of a run whose predecessor still runs. ``"skip"``: it ends as cancelled; with
            ``missed="all"`` it waits. ``"allow"``: both run.
        max_late: Seconds or a timedelta after its due time at which a run may still start. ``None``: no limit.
        name: The name of the schedule, for people. ``None``: that of the task, with a number from the second one on.
        args: The positional arguments of each run.
        kwargs: The arguments by name.

    Returns:
        A decorator that returns the task unchanged.

    Raises:
        ConfigurationError: An option has a value that cannot be used, or what is decorated is no task of ``@spool``.
    """
    options = {"cron": cron, "every": every, "tz": tz, "missed": missed, "overlap": overlap, "max_late": max_late}

    def declare(task: T) -> T:
        declared.add(task, name, args, kwargs or {}, options)
        sweeping.add(ticks.reconcile)
        return task

    return declare


def _engine(engine: object) -> str | None:
    if engine not in (None, "spool", "celery"):
        raise ConfigurationError(f'engine is {shown(engine)}: give "spool" or "celery"', setting="engine")
    return engine


def _task_options(
    retries: int,
    backoff: Backoff | timedelta | None,
    timeout: float | timedelta | None,
    retry_on: Errors | None,
    discard_on: Errors,
    memory: int | None = None,
) -> TaskOptions:
    """Check the options of attempts."""
    try:
        retries = attempt_options.retries(retries)
        backoff = None if backoff is None else attempt_options.declared_backoff(backoff)
        timeout = None if timeout is None else attempt_options.timeout(timeout)
        memory = None if memory is None else attempt_options.memory(memory)
    except ArgumentError as error:
        raise ConfigurationError(str(error), setting=error.argument) from None
    return TaskOptions(
        retries,
        backoff,
        timeout,
        (BaseException,) if retry_on is None else _errors("retry_on", retry_on),
        _errors("discard_on", discard_on),
        memory,
    )


def _refuse_options_of_spool(options: Mapping[str, object]) -> None:
    """Refuse the options that a thread task cannot have, with the reason."""
    for name in options:
        if name == "memory":
            raise ConfigurationError(
                "memory is for @spool: a thread job shares its process with the site. Use @spool(memory=...)",
                setting=name,
            )
        if name not in ("unique", "until", "on_duplicate"):
            raise TypeError(f"thread() has no option {name!r}")
        raise ConfigurationError(
            f"{name} cannot be promised for @thread: a thread job has no file by which other processes could tell that "
            "it lives. Use @spool(unique=...); within one process, @thread(concurrency=1) runs one job at a time",
            setting=name,
        )


def _refuse_limits_without(options: TaskOptions, track: bool, overflow: Overflow) -> None:
    """Refuse a limit or a rate of a thread task that could not be kept, with the reason."""
    for name, bound in (("limit", options.limit), ("rate", options.rate)):
        if bound is None:
            continue
        if not track:
            raise ConfigurationError(
                f"{name} cannot be combined with track=False: jobs that are not recorded cannot be counted",
                setting=name,
            )
        if overflow == "run":
            raise ConfigurationError(
                f'{name} cannot be combined with overflow="run": a caller that runs a job would have to wait as the '
                "job does",
                setting=name,
            )


def _unique(key: Key, until: Until, on_duplicate: OnDuplicate) -> Unique | None:
    """Check the options of a unique task."""
    for setting, value, known in (("until", until, Until), ("on_duplicate", on_duplicate, OnDuplicate)):
        if value not in get_args(known):
            raise ConfigurationError(f"{setting} is {shown(value)}: give one of {get_args(known)}", setting=setting)
    if key is False:
        if (until, on_duplicate) != (Unique.until, Unique.on_duplicate):
            raise ConfigurationError(
                "until and on_duplicate are about unique tasks: add unique=True, or the names of arguments",
                setting="unique",
            )
        return None
    if isinstance(key, (list, tuple)) and key and all(isinstance(name, str) for name in key):
        key = tuple(key)
    elif key is not True and not callable(key):
        raise ConfigurationError(
            f'unique is {shown(key)}: give True, a tuple of names of arguments such as ("user_id",), or a function '
            "that returns the key",
            setting="unique",
        )
    elif callable(key):
        named_by(key)
    return Unique(key, until, on_duplicate)


def _queue(queue: str | None) -> str | None:
    """Check the queue of a task; whether there is one of that name is known once there is an application."""
    if queue is not None and not (isinstance(queue, str) and (is_queue_name(queue) or os.path.isabs(queue))):
        raise ConfigurationError(
            f'queue is {shown(queue)}: give a name in SPOOLKIT_QUEUES, such as "mail"', setting="queue"
        )
    return None if queue == DEFAULT_QUEUE else queue


def _bound(kind: type[B], bound: B | None) -> B | None:
    """Check the limit or the rate of a task."""
    if bound is None:
        return None
    if not isinstance(bound, kind):
        setting, example = ("limit", "Limit(3)") if kind is Limit else ("rate", "Rate(10, per=60)")
        raise ConfigurationError(
            f"{setting} is {shown(bound)}: give a {kind.__name__}, such as {example}", setting=setting
        )
    if bound.key is not None:
        named_by(bound.key)
    return bound


def _priority(priority: int | None) -> int | None:
    """Check the priority of a task."""
    if priority is not None and not (type(priority) is int and 0 <= priority <= MAX_PRIORITY):
        raise ConfigurationError(
            f"priority is {shown(priority)}: give a number, 0 to {MAX_PRIORITY}; lower ones run first",
            setting="priority",
        )
    return priority


def _check_names(name: str | None, aliases: Sequence[str]) -> None:
    """Check the names of a task."""
    if isinstance(aliases, str):
        raise ConfigurationError(f"aliases is {shown(aliases)}: give a list of names", setting="aliases")
    names = [] if name is None else [("name", name)]
    for setting, given in [*names, *(("aliases", alias) for alias in aliases)]:
        if not isinstance(given, str) or not given:
            raise ConfigurationError(f"{setting} has {shown(given)}: give the names of tasks as text", setting=setting)


def _thread_options(concurrency: int | None, overflow: Overflow, track: bool, copy_request: bool) -> ThreadOptions:
    """Check the options of the thread pool."""
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise ConfigurationError(
            f"concurrency is {shown(concurrency)}: give a number, one or more", setting="concurrency"
        )
    if overflow not in get_args(Overflow):
        raise ConfigurationError(f"overflow is {shown(overflow)}: give one of {get_args(Overflow)}", setting="overflow")
    if overflow == "run" and concurrency is not None:
        raise ConfigurationError(
            'overflow="run" cannot be combined with concurrency: callers would wait for each other for ever',
            setting="overflow",
        )
    if overflow == "spool" and copy_request:
        raise ConfigurationError(
            'overflow="spool" cannot be combined with copy_request: a spooler has no request', setting="overflow"
        )
    return ThreadOptions(concurrency, overflow, track, copy_request)


def _errors(name: str, given: Errors) -> tuple[type[BaseException], ...]:
    advice = f"{name} is {shown(given)}: give an exception class, or a list of them"
    if isinstance(given, type):
        members: tuple[object, ...] = (given,)
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        members = tuple(given)
    else:
        raise ConfigurationError(advice, setting=name)
    errors = tuple(member for member in members if isinstance(member, type) and issubclass(member, BaseException))
    if len(errors) != len(members):
        raise ConfigurationError(advice, setting=name)
    return errors
