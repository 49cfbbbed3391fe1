"""``@spool`` and ``@thread``: a declared function whose call is a job."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from spoolkit import application, callables, registry, times
from spoolkit.attempt import calling, current_job
from spoolkit.encoding import uwsgi_args
from spoolkit.engine import Engine
from spoolkit.errors import ArgumentError, ArgumentTypeError, DecodeError, QueueFull, SignatureError, shown
from spoolkit.handle import Job
from spoolkit.job import Backoff, TaskOptions, new_id
from spoolkit.lifecycle import hooks
from spoolkit.options import Errors, check_names, task_options, thread_options
from spoolkit.spooling import engine as spool_engine
from spoolkit.system import clock, sandbox
from spoolkit.threads.engine import Overflow, ThreadEngine

P = ParamSpec("P")
R = TypeVar("R")

At = float | datetime
Delay = float | timedelta


class Task(Generic[P, R]):
    """A declared function. Calling it makes a job; :meth:`run` calls the function itself."""

    def __init__(
        self,
        function: Callable[P, R],
        engine: Engine,
        options: TaskOptions,
        name: str | None = None,
        aliases: Sequence[str] = (),
    ) -> None:
        declared = registry.declare(function, options, name, aliases, engine.name)
        # But for what would hide a method of the task: uwsgidecorators sets .spool on each of its functions.
        attributes = getattr(function, "__dict__", {})
        vars(self).update((key, value) for key, value in attributes.items() if not hasattr(type(self), key))
        update_wrapper(self, function, updated=())
        self.declared = declared
        self.name = declared.name
        _tasks[self.name] = self
        self._function = function
        self._engine = engine

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Have the function run with these arguments, whatever their names, as soon as may be.

        Returns the :class:`Job`, which is accepted by then. Raises :class:`ArgumentError` for arguments that cannot be
        taken, :class:`SpoolUnavailableError` or :class:`QueueFull` where no job can be kept; nothing was accepted then.
        """
        return self._submit(args, kwargs)

    def run(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, as a plain function, and return what it returns.

        ``current_job()`` works in it. An ``async def`` runs to its end, in an event loop of its own.
        """
        with current_job.running(current_job.CurrentJob(**vars(self._job(args, kwargs, engine="inline")))):
            if callables.is_async(self._function):
                return calling.run_coroutine(self._function, args, kwargs)  # type: ignore[no-any-return]
            return self._function(*args, **kwargs)

    def _submit(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], at: object = None, delay: object = None, **where: Any
    ) -> Job[R]:
        return self._enqueue(self._job(args, kwargs, self._engine.name, at, delay, **where))

    def _enqueue(self, job: Job[R]) -> Job[R]:
        return self._engine.submit(job, self.declared)

    def _job(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        engine: str,
        at: object = None,
        delay: object = None,
        queue: str | None = None,
        priority: int | None = None,
    ) -> Job[R]:
        try:
            self.declared.signature.bind(*args, **kwargs)
        except TypeError as error:
            advice = self.declared.advice(args, kwargs)
            raise SignatureError(f"{self.name}: {error}{advice}", argument=_named_in(str(error))) from None
        now = clock.now()
        return Job(
            id=new_id(),
            task=self.name,
            args=args,
            kwargs=kwargs,
            engine=engine,
            enqueued_at=now,
            run_at=times.run_at(at, delay, now=now),
            queue=None if queue is None else sandbox.private_directory(queue),
            priority=priority,
            app=application.current_name(),
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


_tasks: dict[str, Task[..., Any]] = {}


def by_name(name: str) -> Task[..., Any]:
    """The task whose function is called ``name``. Raises ``AttributeError`` where there is none, or more than one."""
    found = [task for task in _tasks.values() if task.declared.function.__name__ == name]
    if len(found) == 1:
        return found[0]
    if not found:
        raise AttributeError(f"no task {name!r} is declared in this process: import its module", name=name)
    names = ", ".join(sorted(task.name for task in found))
    raise AttributeError(f"{name!r} may be each of {names}: import the one you mean", name=name)


class SpoolTask(Task[P, R]):
    """A task whose jobs go through the spool directory."""

    def using(
        self,
        *,
        at: At | None = None,
        delay: Delay | None = None,
        priority: int | None = None,
        queue: str | None = None,
    ) -> Callable[P, Job[R]]:
        """The same call with options, kept apart from the arguments: ``task.using(delay=30)(5)``.

        ``at``        unix time in seconds (UTC), or an aware datetime; the job does not start before it
        ``delay``     the same as seconds from now, or a timedelta
        ``priority``  a number, lower first; uWSGI needs ``spooler-ordered``
        ``queue``     another spool directory, absolute
        """
        where: dict[str, Any] = {}
        if priority is not None:
            where["priority"] = uwsgi_args.priority(priority)
        if queue is not None:
            where["queue"] = uwsgi_args.spooler(queue)

        def call(*args: P.args, **kwargs: P.kwargs) -> Job[R]:
            return self._submit(args, kwargs, at, delay, **where)

        return call

    def spool(self, packet: Mapping[bytes, bytes] | None = None, /, **kwargs: Any) -> Job[R]:
        """uWSGI's own spelling: arguments by name, among them its ``at``, ``priority``, ``spooler`` and ``body``.

        ``packet`` is a bytes-only dict, such as ``prepare_spooler_args`` gives: each value is read back by the type
        that the function's annotation gives the argument, and stays bytes where there is none. ``delay`` is understood
        as well, unless the function has an argument of that name. Returns the :class:`Job`; raises as a call does.
        """
        given: dict[str, Any] = {**self._from_packet(packet or {}), **kwargs}
        where: dict[str, Any] = {}
        if "at" in given:
            where["at"] = uwsgi_args.at(given.pop("at"))
        if "delay" in given and "delay" not in self.declared.signature.parameters:
            where["delay"] = given.pop("delay")
        if "priority" in given:
            where["priority"] = uwsgi_args.priority(given.pop("priority"))
        if "spooler" in given:
            where["queue"] = uwsgi_args.spooler(given.pop("spooler"))
        if "body" in given:
            given["body"] = uwsgi_args.body(given["body"])
        return self._submit((), given, **where)

    def _from_packet(self, packet: Mapping[bytes, bytes]) -> dict[str, object]:
        types = uwsgi_args.hints(self.declared.function)
        given: dict[str, object] = {}
        for key, value in packet.items():
            if not isinstance(key, bytes) or not isinstance(value, bytes):
                raise ArgumentTypeError(
                    f"{shown(key)}: {type(value).__name__} is no pair of bytes: give arguments by name, or the dict "
                    "that prepare_spooler_args makes",
                    argument=key.decode("utf-8", "replace")
                    if isinstance(key, bytes)
                    else key
                    if isinstance(key, str)
                    else shown(key),
                    type_name=type(value).__qualname__,
                )
            try:
                name = key.decode()
                given[name] = (
                    value if name in uwsgi_args.MAGIC else uwsgi_args.convert(name, value, types.get(name, bytes))
                )
            except (DecodeError, UnicodeDecodeError) as error:
                raise ArgumentError(str(error), argument=key.decode("utf-8", "replace")) from error
        return given


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
        self._overflow_engine = overflow_engine

    def _enqueue(self, job: Job[R]) -> Job[R]:
        overflow = self._overflow_engine
        try:
            return super()._enqueue(job)
        except QueueFull:
            if overflow is None:
                raise
        return overflow.submit(replace(job, engine=overflow.name), self.declared)


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
    name: str | None = None,
    aliases: Sequence[str] = (),
) -> Any:
    """Declare a task whose jobs are kept on disk and run by a spooler, again until they are done or out of attempts.

    ``retries``     how many attempts may follow the first one that failed, returned ``SPOOL_RETRY`` or lost its process
    ``backoff``     seconds or a timedelta before the next attempt, or a function that gives them for the number of the
                    attempt that failed, from 1; ``None``: 2 s, doubling each time, with jitter, up to an hour
    ``timeout``     seconds or a timedelta after which :class:`JobTimeout` is raised in the task;
                    ``SPOOLKIT_TIMEOUT_GRACE`` later its process is ended. ``None``: never
    ``retry_on``    the exception, or a list of them, after which another attempt makes sense, ``None``: all; any other
                    is the job's death
    ``discard_on``  the exceptions after which the job is pointless: it ends as cancelled
    ``name``        the task's name in jobs and records; ``None``: ``module.function``
    ``aliases``     names that it had in earlier versions, whose jobs may still wait

    Raises :class:`ConfigurationError` for a value that cannot be used.
    """
    options = task_options(retries, backoff, timeout, retry_on, discard_on)
    check_names(name, aliases)

    def declare(function: Callable[P, R]) -> SpoolTask[P, R]:
        spool_engine.install()
        return SpoolTask(function, spool_engine.SpoolEngine(), options, name, aliases)

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
    name: str | None = None,
    aliases: Sequence[str] = (),
) -> Any:
    """Declare a task whose jobs run in a bounded pool of threads of the calling process, and are lost with it.

    ``concurrency``   how many of them run at once in one process, 1: one after the other; ``None``: up to
                      ``SPOOLKIT_THREADS``
    ``overflow``      what becomes of a call when ``SPOOLKIT_THREAD_QUEUE`` others wait: ``"raise"`` :class:`QueueFull`,
                      ``"spool"``: it goes to the spooler, as if declared with ``@spool``, ``"run"``: the caller runs it
    ``track``         whether its jobs are recorded, with their state, result and log
    ``copy_request``  whether a job runs within a copy of the request that made it; uploaded files are not in it
    ``timeout``       seconds after which :class:`JobTimeout` is raised in the task, once Python code runs there

    ``retries`` (here none, unless given), ``backoff``, ``retry_on``, ``discard_on``, ``name`` and ``aliases`` are those
    of :func:`spool`, but a job that waits for its next attempt waits in memory. Raises :class:`ConfigurationError` for
    a value that cannot be used, and where threads are not enabled in this uWSGI.
    """
    hooks.check_threads()
    options = task_options(retries, backoff, timeout, retry_on, discard_on)
    check_names(name, aliases)
    engine = ThreadEngine(thread_options(concurrency, overflow, track, copy_request))

    def declare(function: Callable[P, R]) -> ThreadTask[P, R]:
        overflow_engine = None
        if overflow == "spool":
            spool_engine.install()
            overflow_engine = spool_engine.SpoolEngine()
        return ThreadTask(function, engine, options, name, aliases, overflow_engine)

    return declare if function is None else declare(function)


def _named_in(message: str) -> str | None:
    """The argument that a message of ``inspect`` names in quotes."""
    parts = message.split("'")
    return parts[1] if len(parts) >= 3 else None
