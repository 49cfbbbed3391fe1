"""What of its own does an application have called for its jobs? :class:`~spoolkit.extension.SpoolKit` declares it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from spoolkit.errors import ConfigurationError, shown

T = TypeVar("T")

HeadersFunction = Callable[[], Mapping[str, str] | None]
"""Returns headers for a job that is being called."""

AroundFunction = Callable[[Any], Generator[None, Any, Any]]
"""A generator function with one ``yield``, that runs around something which is done for a job."""


class Callbacks:
    """What one :class:`~spoolkit.extension.SpoolKit` has declared, each in the order of the declarations."""

    def __init__(self) -> None:
        #: Return headers for each job that is called.
        self.headers: list[HeadersFunction] = []
        #: Called in each process that runs jobs, before its first job.
        self.spooler_start: list[Callable[[], object]] = []
        #: Called in each process that has run jobs, before it exits.
        self.spooler_stop: list[Callable[[], object]] = []
        #: Run around each attempt; the first one is the outermost.
        self.around_attempt: list[AroundFunction] = []
        #: Run around each call; the first one is the outermost.
        self.around_enqueue: list[AroundFunction] = []


NONE = Callbacks()
"""Those of a process without an application."""


class ThisProcess:
    """What is known of all applications of this process."""

    #: Whether any of them has declared anything. Where none has, which is usual, nothing else is asked.
    has_any = False


this_process = ThisProcess()


def check_plain(function: Any, decorator: str) -> None:
    """Raise :class:`ConfigurationError` unless ``function`` does its work when it is called.

    A call of a generator function or of a coroutine function would do nothing at all, and nobody would hear of it.
    """
    kinds = inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction
    if not callable(function) or any(is_kind(function) for is_kind in kinds):
        raise ConfigurationError(
            f"@{decorator} is above {shown(function)}: give a function without arguments, without yield or async",
            setting=decorator,
        )


def check_generator(function: Any, decorator: str) -> None:
    """Raise :class:`ConfigurationError` unless ``function`` is what :func:`around` can run."""
    if not inspect.isgeneratorfunction(function):
        raise ConfigurationError(
            f"@{decorator} is above {shown(function)}: give a generator function, def hook(job), with one yield",
            setting=decorator,
        )


def around(functions: Sequence[AroundFunction], job: object, call: Callable[[], T]) -> T:
    """Return what ``call()`` returns, which is called where the functions yield, the first function outermost.

    A function gets at its ``yield`` what the call returned, or the exception that it raised. It cannot make a failure a
    success: an exception that it swallows is raised all the same. What it raises itself takes its place.

    Args:
        functions: Generator functions with one ``yield``.
        job: Their argument.
        call: What they are run around.
    """
    if not functions:
        return call()
    function, *others = functions
    generator = function(job)
    try:
        next(generator)
    except StopIteration:
        raise _wrong(function, "has not yielded") from None
    try:
        returned = around(others, job, call)
    except BaseException as error:
        trace = error.__traceback__
        try:
            generator.throw(error)
        except StopIteration:
            pass  # it is swallowed there, and raised below
        except BaseException as raised:
            # Python makes a RuntimeError of a StopIteration that comes out of a generator.
            if raised is not error and not (isinstance(raised, RuntimeError) and raised.__cause__ is error):
                raise
        else:
            raise _second_yield(function, generator) from error
        BaseException.with_traceback(error, trace)  # without the frames of the generators that it has passed
        raise
    with contextlib.suppress(StopIteration):
        generator.send(returned)
        raise _second_yield(function, generator)
    return returned


def _second_yield(function: AroundFunction, generator: Generator[None, Any, Any]) -> RuntimeError:
    generator.close()
    return _wrong(function, "has yielded twice")


def _wrong(function: AroundFunction, what: str) -> RuntimeError:
    name = getattr(function, "__qualname__", repr(function))
    return RuntimeError(f"the hook {name} {what}: it must yield once, and the task runs there")
