"""What may be given to ``@spool`` and ``@thread``. Each check raises :class:`ConfigurationError`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar, get_args

from spoolkit import times
from spoolkit.errors import ConfigurationError, shown
from spoolkit.job import Backoff, TaskOptions
from spoolkit.threads.engine import Overflow, ThreadOptions

Errors = type[BaseException] | Iterable[type[BaseException]]

T = TypeVar("T")

MAX_RETRIES = 10_000


def task_options(
    retries: int,
    backoff: Backoff | timedelta | None,
    timeout: float | timedelta | None,
    retry_on: Errors | None,
    discard_on: Errors,
) -> TaskOptions:
    """How a task's jobs are tried."""
    if type(retries) is not int or not 0 <= retries <= MAX_RETRIES:
        problem = f"retries is {shown(retries)}: give a whole number, 0 to {MAX_RETRIES}"
        raise ConfigurationError(problem, setting="retries")
    backoff, timeout = _seconds(backoff), _seconds(timeout)
    if backoff is not None and not callable(backoff) and not _is_time(backoff):
        raise ConfigurationError(
            f"backoff is {shown(backoff)}: give seconds or a timedelta, zero or more, or a function of the attempt",
            setting="backoff",
        )
    if timeout is not None and (not _is_time(timeout) or timeout == 0):
        raise ConfigurationError(
            f"timeout is {shown(timeout)}: give seconds or a timedelta, more than zero", setting="timeout"
        )
    return TaskOptions(
        retries,
        backoff,
        timeout,
        (BaseException,) if retry_on is None else _errors("retry_on", retry_on),
        _errors("discard_on", discard_on),
    )


def check_names(name: str | None, aliases: Sequence[str]) -> None:
    """What a task is called, and was."""
    if isinstance(aliases, str):
        raise ConfigurationError(f"aliases is {shown(aliases)}: give a list of names", setting="aliases")
    for setting, given in [("name", name)] * (name is not None) + [("aliases", alias) for alias in aliases]:
        if not isinstance(given, str) or not given:
            raise ConfigurationError(f"{setting} holds {shown(given)}: give the names of tasks", setting=setting)


def thread_options(concurrency: int | None, overflow: Overflow, track: bool, copy_request: bool) -> ThreadOptions:
    """How a task's jobs use the pool."""
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise ConfigurationError(
            f"concurrency is {shown(concurrency)}: give a number, one or more", setting="concurrency"
        )
    if overflow not in get_args(Overflow):
        raise ConfigurationError(f"overflow is {shown(overflow)}: give one of {get_args(Overflow)}", setting="overflow")
    if overflow == "run" and concurrency is not None:
        raise ConfigurationError(
            'overflow is "run", beside a concurrency: callers that wait for each other would wait for ever',
            setting="overflow",
        )
    if overflow == "spool" and copy_request:
        raise ConfigurationError(
            'overflow is "spool", beside copy_request: a spooler has no request', setting="overflow"
        )
    return ThreadOptions(concurrency, overflow, track, copy_request)


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= times.MAX_AHEAD


def _seconds(value: T | timedelta) -> T | float:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _errors(name: str, given: Errors) -> tuple[type[BaseException], ...]:
    advice = f"{name} is {shown(given)}: give an exception class, or a list of them"
    if isinstance(given, type):
        several: tuple[object, ...] = (given,)
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        several = tuple(given)
    else:
        raise ConfigurationError(advice, setting=name)
    errors = tuple(one for one in several if isinstance(one, type) and issubclass(one, BaseException))
    if len(errors) != len(several):
        raise ConfigurationError(advice, setting=name)
    return errors
