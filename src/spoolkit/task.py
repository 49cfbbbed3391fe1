"""What does calling a task do? The classes of the tasks that ``@spool`` and ``@thread`` make of functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from flask import Flask

from spoolkit import application, callables, callbacks, registry, times
from spoolkit.attempt import calling, current_job, remote
from spoolkit.attempt import options as attempt_options
from spoolkit.coordination import limits, unique
from spoolkit.encoding import headers as job_headers
from spoolkit.encoding import tags as job_tags
from spoolkit.encoding import uwsgi_args
from spoolkit.errors import (
    ArgumentError,
    ArgumentTypeError,
    ConfigurationError,
    DecodeError,
    JobTimeout,
    QueueFull,
    ScheduleError,
    SignatureError,
    of_row,
    shown,
)
from spoolkit.handle import Job
from spoolkit.job import AnyJob, TaskOptions, new_id, replaced
from spoolkit.registry import Declared
from spoolkit.settings import DEFAULT_QUEUE, is_queue_name
from spoolkit.spooling.engine import SpoolEngine
from spoolkit.system import clock, log, sandbox

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

At = float | datetime
"""Unix time in seconds (UTC), or an aware datetime."""

Delay = float | timedelta
"""Seconds, or a timedelta."""

Headers = Mapping[str, str]
"""What a call sends along with the job: texts by name."""

Tags = Sequence[str] | AbstractSet[str]
"""Short texts by which a job is found."""

Expires = Delay | datetime
"""Seconds or a timedelta from the call on, or an aware datetime."""

AfterCommit = Any
"""``True``, ``False``, or a session of SQLAlchemy, which is not imported here."""

Row = tuple[Any, ...] | dict[str, Any]
"""The arguments of one job: by position, or by name."""

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""The arguments of a call by position, and by name."""


class Engine(Protocol):
    """What carries jobs to where they run. Each engine passes the same tests, ``tests/unit/test_engines.py``."""

    #: The engine's name in jobs and records: ``spool``, ``thread`` or ``inline``.
    name: str

    def submit(self, job: AnyJob, declared: Declared, after_commit: object = None) -> AnyJob:
        """Accept ``job``, a call of the task ``declared``, to run it once its ``run_at`` has come.

        Args:
            job: The job.
            declared: The task.
            after_commit: For what the job waits before it is accepted: see
                :func:`spoolkit.coordination.commits.current`.

        Returns:
            The job, which is accepted by then, or waits for a commit.

        Raises:
            ArgumentError: This engine cannot carry the job. As with each error, nothing was accepted.
            ConfigurationError: It is not known for which transaction the job is to wait.
            SpoolUnavailableError: The spool directory takes no job now.
            QueueFull: The thread pool takes no job now.
        """
        ...


class Task(Generic[P, R]):
    """A declared function. Calling it enqueues a job; :meth:`run` calls the function itself."""

    def __init__(
        self,
        function: Callable[P, R],
        engine: Engine,
        options: TaskOptions,
        name: str | None = None,
        aliases: Sequence[str] = (),
    ) -> None:
        declared = registry.declare(function, options, name, aliases, engine.name, task=self)
        # Except those that would hide a method of the task: uwsgidecorators sets .spool on each of its functions.
        attributes = getattr(function, "__dict__", {})
        vars(self).update((key, value) for key, value in attributes.items() if not hasattr(type(self), key))
        update_wrapper(self, function, updated=())
        self.declared = declared
        self.name = declared.name
        self._function = function
        self._engine = engine
        self._defaults: dict[str, Any] = {}
        """The options of each call that does not give them itself."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Enqueue a job that runs the function with these arguments as soon as possible.

        All arguments are the function's own, whatever their names are: see :meth:`SpoolTask.using` for options.

        Returns:
            The job, which is accepted by then.

        Raises:
            ArgumentError: The arguments do not fit the function, or have an unsupported type or size. As with each
                error, nothing was accepted.
            SpoolUnavailableError: The spool directory takes no job now.
            QueueFull: The thread pool takes no job now.
        """
        return self._enqueue(args, kwargs)

    def run(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, and return what it returns; what it raises is raised unchanged.

        ``current_job()`` works in it. An ``async def`` function runs to its end, in an event loop of its own.

        Raises:
            SignatureError: The arguments do not fit the function.
        """
        self._check(args, kwargs)
        with current_job.as_current_job(current_job.CurrentJob(self._job(args, kwargs, engine="inline"))):
            if callables.is_async(self._function):
                return calling.run_coroutine(self._function, args, kwargs)  # type: ignore[no-any-return]
            return self._function(*args, **kwargs)

    def _enqueue(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> Job[R]:
        self._check(args, kwargs)
        after_commit = options.get("after_commit") if options else None
        job = self._job(args, kwargs, self._engine.name, options)
        if callbacks.this_process.has_any:
            return within_hooks(_with_headers(job), lambda job: self._submit(job, after_commit))
        return self._submit(_with_headers(job) if current_job.headers() else job, after_commit)

    def _submit(self, job: Job[R], after_commit: object) -> Job[R]:
        return self._engine.submit(job, self.declared, after_commit)

    def _job(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        engine: str,
        options: Mapping[str, Any] | None = None,
    ) -> Job[R]:
        if self._defaults and engine == self._engine.name:
            options = {**self._defaults, **(options or {})}
        now, app = clock.now(), application.current_name()
        job: Job[R] = Job(new_id(), self.name, args, kwargs, engine, now, None, None, None, app)
        return replaced(job, **_fields(options, now)) if options else job

    def _check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if problem := self.declared.mismatch(args, kwargs):
            raise SignatureError(f"{self.name}: {problem}", argument=_named_in(problem))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def by_name(name: str) -> Task[..., Any]:
    """The task whose function has this name.

    Raises:
        AttributeError: No task of this process has a function of this name, or more than one has.
    """
    found = [declared for declared in registry.by_function(name) if declared.task is not None]
    if len(found) == 1:
        return found[0].task  # type: ignore[no-any-return]
    if not found:
        raise AttributeError(f"no task {name!r} is declared in this process: import its module", name=name)
    names = ", ".join(declared.name for declared in found)
    raise AttributeError(f"several tasks have a function {name!r}, {names}: import the one you mean", name=name)


class BulkEngine(Engine, Protocol):
    """An engine that accepts many jobs at once."""

    def submit_many(
        self, first: AnyJob, calls: Sequence[Call], declared: Declared, *, step: float, after_commit: object = None
    ) -> list[AnyJob]:
        """Accept a job for each call, as :meth:`submit` does.

        Args:
            first: The first job, but for its id and its arguments; the others differ from it in their due time.
            calls: The arguments of each job, by position and by name.
            declared: The task.
            step: Seconds between the due times of two jobs.
            after_commit: As for :meth:`submit`.

        Returns:
            The jobs, in the order of the calls.

        Raises:
            ArgumentError: This engine cannot carry one of the jobs; its ``row`` is the index. Nothing was accepted.
            SpoolUnavailableError: The spool directory takes no job now; nothing was accepted.
        """
        ...


class SpoolTask(Task[P, R]):
    """A task whose jobs are files in a spool directory, which a spooler runs."""

    _engine: BulkEngine

    def __init__(
        self,
        function: Callable[P, R],
        engine: BulkEngine,
        options: TaskOptions,
        name: str | None = None,
        aliases: Sequence[str] = (),
    ) -> None:
        super().__init__(function, engine, options, name, aliases)
        self._defaults = _options(queue=options.queue, priority=options.priority)
        if options.unique is not None:
            unique.check_key(self.declared, options.unique)
        limits.check(self.declared)

    def using(
        self,
        *,
        at: At | None = None,
        delay: Delay | None = None,
        max_wait: Delay | None = None,
        expires: Expires | None = None,
        priority: int | None = None,
        queue: str | None = None,
        retries: int | None = None,
        backoff: Delay | None = None,
        timeout: Delay | None = None,
        headers: Headers | None = None,
        after_commit: AfterCommit | None = None,
        tags: Tags | None = None,
    ) -> Prepared[P, R]:
        """The task with options for the next call, apart from its arguments: ``task.using(delay=30)(5)``.

        Args:
            at: The time before which the job does not start: unix time in seconds (UTC), or an aware datetime.
            delay: The same, as seconds from the call on, or as a timedelta. At most one of the two.
            max_wait: Seconds or a timedelta from the first call on: no later call puts the job off beyond that. With
                ``at`` or ``delay``, for a task with ``on_duplicate="replace"``.
            expires: The time from which on no attempt starts: seconds from the call on, a timedelta, or an aware
                datetime. The job ends as cancelled then, when its next attempt is due.
            priority: 0 to 999; lower ones run first, and 500 is normal. uWSGI needs ``spooler-ordered``.
            retries: How many attempts may follow the first one, instead of as many as the task says; 0 to 10,000.
            backoff: Seconds or a timedelta before the next attempt, instead of those of the task.
            timeout: Seconds or a timedelta after which :class:`JobTimeout` is raised in the task, instead of its own.
            queue: The name of a queue in ``SPOOLKIT_QUEUES``, ``"default"``, or the absolute path of a spool directory.
            headers: A dict of str to str that the job has as ``current_job().headers``: at most 8 KB, no secrets.
            after_commit: ``True``: the job is accepted once the transaction in progress is committed, and never if it
                is not; or the session of SQLAlchemy in which that is. ``False``: at once, whatever
                ``SPOOLKIT_AFTER_COMMIT`` says.
            tags: Up to 16 short texts by which the job is found, such as ``["user:42"]``: see :meth:`SpoolKit.jobs`.

        Returns:
            A function to call with the task's arguments. It returns and raises as a call of the task does; its
            ``call()`` is that of the task, with these options.

        Raises:
            ArgumentError: ``retries``, ``backoff`` or ``timeout`` cannot be used.
            QueueOptionError: ``priority`` or ``queue`` cannot be used.
            ScheduleError: ``max_wait`` is not a time, or no later call of this task would put the job off, or there is
                no delay.
        """
        if max_wait is not None:
            self._check_max_wait(is_delayed=at is not None or delay is not None)
        options = _options(
            at=at,
            delay=delay,
            max_wait=max_wait,
            expires=expires,
            priority=priority,
            queue=queue,
            retries=retries,
            backoff=backoff,
            timeout=timeout,
            headers=headers,
            after_commit=after_commit,
            tags=tags,
        )
        return Prepared(self, options)

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> PlannedCall[R]:
        """A call of the task that is not made yet: for :class:`~spoolkit.Batch` and :func:`~spoolkit.chain`.

        Raises:
            SignatureError: The arguments do not fit the function.
            ArgumentError: The task is unique.
        """
        return self._plan(args, kwargs, {})

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> PlannedCall[R]:
        if self.declared.options.unique is not None:
            raise ArgumentError(
                f"{self.name} is unique, so that a call may make no job of its own: neither a batch nor a chain can "
                "wait for that. Let a task of the batch or the chain call it"
            )
        self._check(args, kwargs)
        return PlannedCall(self, args, kwargs, options)

    def _check_max_wait(self, *, is_delayed: bool, is_spread: bool = False) -> None:
        """Refuse the option ``max_wait`` where it would bound nothing."""
        rule = self.declared.options.unique
        if rule is None or rule.on_duplicate != "replace":
            raise ScheduleError(
                f"max_wait bounds how long later calls put a job off, and those of {self.name} do not: declare it with "
                '@spool(unique=..., on_duplicate="replace")',
                argument="max_wait",
            )
        if not is_delayed:
            raise ScheduleError(
                "max_wait bounds how long a job is put off, and without a delay it is due now: give delay or at too",
                argument="max_wait",
            )
        if is_spread:
            raise ScheduleError(
                "max_wait would cut the times over which spread distributes the jobs: give one of the two",
                argument="max_wait",
            )

    def map(
        self,
        rows: Iterable[Row],
        *,
        spread: Delay = 0,
        at: At | None = None,
        delay: Delay | None = None,
        max_wait: Delay | None = None,
        expires: Expires | None = None,
        priority: int | None = None,
        queue: str | None = None,
        retries: int | None = None,
        backoff: Delay | None = None,
        timeout: Delay | None = None,
        headers: Headers | None = None,
        after_commit: AfterCommit | None = None,
        tags: Tags | None = None,
    ) -> list[Job[R]]:
        """Enqueue a job for each row, for a fraction of the price of as many calls.

        All rows are checked before anything is written. Up to 1,000 jobs are accepted at once, as one file, of which a
        spooler makes a file for each job; after that they are jobs like any other.

        Args:
            rows: The arguments of each job: a tuple of positional ones, or a dict of those by name.
            spread: Seconds, or a timedelta, over which the due times are spread evenly, in the order of the rows.
            at: As for :meth:`using`, for the first job.
            delay: As for :meth:`using`, for the first job.
            max_wait: As for :meth:`using`, for each of them. Not with ``spread``.
            expires: As for :meth:`using`, for all of them.
            priority: As for :meth:`using`.
            queue: As for :meth:`using`.
            retries: As for :meth:`using`.
            backoff: As for :meth:`using`.
            timeout: As for :meth:`using`.
            headers: As for :meth:`using`, for all of them.
            after_commit: As for :meth:`using`, for all of them.
            tags: As for :meth:`using`, for all of them.

        Returns:
            The jobs, in the order of the rows.

        Raises:
            ArgumentError: As a call of the task does. Its ``row`` is the index of the row at fault.
            SpoolUnavailableError: The spool directory takes no jobs now; none was accepted, unless it is a
                :class:`PartlyAcceptedError`, which names the rows that were.
        """
        calls: list[Call] = []
        try:
            for row in rows:
                calls.append(self._call_of(row))
        except ArgumentError as error:
            raise of_row(error, len(calls)) from None
        seconds = times.seconds(spread, "spread")
        if max_wait is not None:
            self._check_max_wait(is_delayed=at is not None or delay is not None, is_spread=seconds > 0)
        options = _options(
            at=at,
            delay=delay,
            max_wait=max_wait,
            expires=expires,
            priority=priority,
            queue=queue,
            retries=retries,
            backoff=backoff,
            timeout=timeout,
            headers=headers,
            tags=tags,
        )
        first = _with_headers(self._job((), {}, self._engine.name, options))
        if seconds and first.run_at is None:
            first = replaced(first, run_at=first.enqueued_at)
        if not calls:
            return []
        step = seconds / len(calls)
        return within_hooks(
            first,
            lambda first: self._engine.submit_many(first, calls, self.declared, step=step, after_commit=after_commit),
        )

    def _call_of(self, row: Row) -> Call:
        args: tuple[Any, ...] = row if isinstance(row, tuple) else ()
        kwargs = row if isinstance(row, dict) else {}
        if row is not args and row is not kwargs:
            raise ArgumentTypeError(
                f"the arguments are of type {type(row).__name__}: give a tuple of positional arguments, such as (5,), "
                "or a dict of arguments by name",
                type_name=type(row).__qualname__,
            )
        self._check(args, kwargs)
        return args, dict(kwargs)

    def spool(self, packet: Mapping[bytes, bytes] | None = None, /, **kwargs: Any) -> Job[R]:
        """Enqueue a job in uWSGI's own spelling, where options stand among the arguments.

        Args:
            packet: A bytes-only dict, such as ``prepare_spooler_args`` returns. Each value is converted to the type of
                the function's annotation, and stays bytes where there is none.
            kwargs: Arguments by name. uWSGI's ``at``, ``priority``, ``spooler`` and ``body`` keep their meaning there,
                and so does ``delay``, unless the function has an argument of that name.

        Returns:
            The job, which is accepted by then.

        Raises:
            ArgumentError: As a call of the task does, and for a value that cannot be converted.
            SpoolUnavailableError: The spool directory takes no job now.
        """
        arguments: dict[str, Any] = {**self._from_packet(packet or {}), **kwargs}
        options: dict[str, Any] = {}
        if "at" in arguments:
            options["at"] = uwsgi_args.at(arguments.pop("at"), now=clock.now())
        if "delay" in arguments and "delay" not in self.declared.signature.parameters:
            options["delay"] = arguments.pop("delay")
        if "priority" in arguments:
            options["priority"] = uwsgi_args.priority(arguments.pop("priority"))
        if "spooler" in arguments:
            options["queue"] = _queue(arguments.pop("spooler"))
        if "body" in arguments:
            arguments["body"] = uwsgi_args.body(arguments["body"])
        return self._enqueue((), arguments, options)

    def _from_packet(self, packet: Mapping[bytes, bytes]) -> dict[str, object]:
        types = uwsgi_args.hints(self.declared.function)
        arguments: dict[str, object] = {}
        for key, value in packet.items():
            if not isinstance(key, bytes) or not isinstance(value, bytes):
                raise ArgumentTypeError(
                    f"{shown(key)}: {type(value).__name__} is not a pair of bytes: give arguments by name, or the dict "
                    "that prepare_spooler_args returns",
                    argument=_as_name(key),
                    type_name=type(value).__qualname__,
                )
            try:
                name = key.decode()
                is_option = name in uwsgi_args.MAGIC
                arguments[name] = value if is_option else uwsgi_args.convert(name, value, types.get(name, bytes))
            except (DecodeError, UnicodeDecodeError) as error:
                raise ArgumentError(str(error), argument=_as_name(key)) from error
        return arguments


@dataclass(frozen=True)
class Prepared(Generic[P, R]):
    """A task with options for its next call."""

    _task: SpoolTask[P, R]
    _options: Mapping[str, Any] = field(repr=False)  # headers among them

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """As a call of the task."""
        return self._task._enqueue(args, kwargs, self._options)

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> PlannedCall[R]:
        """As the task's own ``call()``."""
        return self._task._plan(args, kwargs, self._options)


@dataclass(frozen=True)
class PlannedCall(Generic[R]):
    """A call that is not made yet, with its arguments and its options."""

    #: The task.
    task: SpoolTask[..., R]
    #: The positional arguments.
    args: tuple[Any, ...] = field(repr=False)
    #: The arguments by name.
    kwargs: Mapping[str, Any] = field(repr=False)
    #: What was given to ``using()``.
    options: Mapping[str, Any] = field(repr=False)

    def job(self) -> Job[R]:
        """The job of this call, if it is made now.

        Raises:
            ArgumentError: Its engine cannot carry it.
            QueueOptionError: Its queue or its priority cannot be used.
            SpoolUnavailableError: The spool directory is missing, or is another user's.
        """
        job = self.task._job(self.args, self.kwargs, self.task._engine.name, self.options)
        return SpoolEngine().addressed(_with_headers(job), self.task.declared)

    def job_for_later(self, what: str) -> Job[R]:
        """The job of this call, if it is made at a time that is not known yet.

        Args:
            what: What the call is, for the message.

        Raises:
            ScheduleError: An option counts seconds from the call on.
            ArgumentError: As for :meth:`job`.
        """
        if self.options.get("after_commit"):
            raise ArgumentError(
                f"after_commit is given for {what} of {self.task.name}, which is made later, in another process: leave "
                "it out",
                argument="after_commit",
            )
        for name in ("delay", "expires"):
            if name in self.options and not isinstance(self.options[name], datetime):
                raise ScheduleError(
                    f"{name} is {shown(self.options[name])}, from the call on, but {what} of {self.task.name} is made "
                    "later, at a time that is not known: leave it out",
                    argument=name,
                )
        return self.job()

    def dump(self, job: Job[R]) -> bytes:
        """Check the job of this call, and return the content of its file."""
        return SpoolEngine().dump(job, self.task.declared)


class ThreadTask(Task[P, R]):
    """A task whose jobs run in the threads of the calling process, and are lost with it."""

    def __init__(
        self,
        function: Callable[P, R],
        engine: Engine,
        options: TaskOptions,
        name: str | None = None,
        aliases: Sequence[str] = (),
        overflow_engine: Engine | None = None,
    ) -> None:
        super().__init__(function, engine, options, name, aliases)
        limits.check(self.declared)
        self._overflow_engine = overflow_engine

    def using(
        self,
        *,
        expires: Expires | None = None,
        retries: int | None = None,
        backoff: Delay | None = None,
        timeout: Delay | None = None,
        headers: Headers | None = None,
        after_commit: AfterCommit | None = None,
        tags: Tags | None = None,
    ) -> Callable[P, Job[R]]:
        """The task with options for the next call, apart from its arguments: ``task.using(expires=30)(5)``.

        Args:
            expires: The time from which on no attempt starts: seconds from the call on, a timedelta, or an aware
                datetime. The job ends as cancelled then, when a thread is free for it.
            retries: How many attempts may follow the first one, instead of as many as the task says; 0 to 10,000.
            backoff: Seconds or a timedelta before the next attempt, instead of those of the task.
            timeout: Seconds or a timedelta after which :class:`JobTimeout` is raised in the task, instead of its own.
            headers: A dict of str to str that the job has as ``current_job().headers``: at most 8 KB, no secrets.
            after_commit: As for :meth:`SpoolTask.using`. Whether the pool has room is asked in the call.
            tags: Up to 16 short texts by which the job is found, such as ``["user:42"]``: see :meth:`SpoolKit.jobs`.

        Returns:
            A function to call with the task's arguments. It returns and raises as a call of the task does.

        Raises:
            ArgumentError: ``retries``, ``backoff`` or ``timeout`` cannot be used.
        """
        options = _options(
            expires=expires,
            retries=retries,
            backoff=backoff,
            timeout=timeout,
            headers=headers,
            after_commit=after_commit,
            tags=tags,
        )

        def call(*args: P.args, **kwargs: P.kwargs) -> Job[R]:
            return self._enqueue(args, kwargs, options)

        return call

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Not supported: raises :class:`ArgumentTypeError`. A job in a batch or a chain must survive its process."""
        raise ArgumentTypeError(
            f"{self.name} is a @thread task, whose jobs are lost with their process: declare it with @spool to use it "
            "in a batch or a chain",
            type_name=type(self).__qualname__,
        )

    def _submit(self, job: Job[R], after_commit: object) -> Job[R]:
        overflow = self._overflow_engine
        try:
            return super()._submit(job, after_commit)
        except QueueFull:
            if overflow is None:
                raise
        return overflow.submit(replaced(job, engine=overflow.name), self.declared, after_commit)


def _queue(value: object) -> str:
    """The name of a queue as it is, or the real path of a spool directory."""
    if isinstance(value, bytes) and is_queue_name(text := value.decode("ascii", "replace")):
        return text
    if isinstance(value, str) and is_queue_name(value):
        return value
    return os.path.realpath(uwsgi_args.spool_dir(value))


_CHECKS: dict[str, Callable[[Any], object]] = {
    "headers": job_headers.check,
    "tags": job_tags.check,
    "max_wait": lambda value: times.seconds(value, "max_wait"),
    "priority": uwsgi_args.priority,
    "retries": attempt_options.retries,
    "backoff": attempt_options.backoff,
    "timeout": attempt_options.timeout,
    "queue": _queue,
}
"""Checks of options that need no more than the value; each returns the value as the job has it."""


def _options(**given: Any) -> dict[str, Any]:
    """The options of a call that are given, checked; the times among them are checked by each call."""
    return {
        name: _CHECKS[name](value) if name in _CHECKS else value for name, value in given.items() if value is not None
    }


def _fields(options: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The fields of a job that these options of its call set: those with the name of a field, as they are."""
    fields = dict(options)
    fields.pop("after_commit", None)  # of the call alone
    at, delay, expires = (fields.pop(name, None) for name in ("at", "delay", "expires"))
    fields["run_at"] = times.run_at(at, delay, now=now)
    if expires is not None:
        fields["expires_at"] = times.expires_at(expires, now=now)
    if (queue := fields.get("queue")) == DEFAULT_QUEUE:
        fields["queue"] = None
    elif queue is not None and os.path.isabs(queue):
        fields["queue"] = sandbox.private_directory(queue)
    return fields


def _with_headers(job: Job[R]) -> Job[R]:
    """The job with the headers of its call, those that the application provides, and those of the job that calls it.

    Of several with one name, the first counts. No call is refused because of the last two.
    """
    inherited = current_job.headers()
    functions = application.own_callbacks().headers if callbacks.this_process.has_any else ()
    if not inherited and not functions:
        return job
    found: Mapping[str, str] = job.headers or {}
    for more in (*map(_provided, reversed(functions)), inherited):
        if (both := job_headers.joined(more, found)) is None:
            text = "a job of %s is accepted without some of its headers: together they are larger than %d bytes"
            log.complain(text, job.task, job_headers.LIMIT)
        else:
            found = both
    return replaced(job, headers=found) if found else job


def within_hooks(job: Job[R], submit: Callable[[Job[R]], T]) -> T:
    """Submit a job within the hooks of the application that run around each call."""
    hooks = application.own_callbacks().around_enqueue
    if not hooks:
        return submit(job)
    job = replaced(job, headers=dict(job.headers or {}))
    accepted: list[T] = []

    def call() -> T:
        accepted.append(submit(replaced(job, headers=job_headers.check(job.headers) or None)))
        return accepted[0]

    try:
        return callbacks.around(hooks, job, call)
    except Exception as error:
        if not accepted or isinstance(error, JobTimeout):
            raise
        # To raise it would say that nothing was accepted.
        log.complain("a hook failed after the job that it runs around was accepted; the job stands", error=error)
        return accepted[0]


def _provided(function: callbacks.HeadersFunction) -> Mapping[str, str]:
    """What a function of the application provides as headers; none if it fails."""
    try:
        return job_headers.check(function() or {})
    except JobTimeout:
        raise  # that of the task which makes this call
    except Exception as error:
        log.complain("the headers of a job cannot be provided, it is accepted without them", error=error)
        return {}


def _as_name(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    return key if isinstance(key, str) else shown(key)


def _named_in(problem: str) -> str | None:
    """The argument that a message of :mod:`inspect` names in quotes."""
    parts = problem.split("'")
    return parts[1] if len(parts) >= 3 else None


def check_celery(app: Flask) -> None:
    """Check that the configuration of an application has what the engine ``celery`` needs.

    Raises:
        ConfigurationError: It has not, or Celery is not installed.
    """
    try:
        from spoolkit.celery.configuration import celery_app  # only where it is used: it may not be installed
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the engine celery needs Celery, and {error.name} is not installed: pip install 'spoolkit[celery]'",
            setting="SPOOLKIT_ENGINE",
        ) from error
    celery_app(app)


def _celery() -> remote.Transport:
    from spoolkit.celery import transport

    return transport.make()


remote.transports.setdefault("celery", _celery)
