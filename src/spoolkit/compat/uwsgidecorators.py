"""The names of uwsgidecorators, for a site that leaves uWSGI, or that wants its jobs bounded there: docs/compat.md.

Under uWSGI all names but those of the spooler are those of the module ``uwsgidecorators`` itself. Elsewhere each works
without uWSGI, or raises an error at its declaration that says what stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, overload

from spoolkit.compat.spooled import SpooledFunction
from spoolkit.job import SPOOL_OK, SPOOL_RETRY, SpoolResult

Decorator = Callable[[Callable[..., Any]], SpooledFunction]


@overload
def spool(f: Callable[..., Any], pass_arguments: bool = ...) -> SpooledFunction: ...
@overload
def spool(f: None = ..., pass_arguments: bool = ...) -> Decorator: ...
def spool(f: Callable[..., Any] | None = None, pass_arguments: bool = False) -> SpooledFunction | Decorator:
    """Declare a function whose calls run in a spooler, once: what it returns is ignored.

    Args:
        f: The function, which gets one dict with text as values.
        pass_arguments: Whether it gets the arguments of the call instead, of the types that spoolkit supports.

    Returns:
        What enqueues a job when it is called, or a decorator.

    Raises:
        TaskFunctionError: ``f`` cannot be a task.
    """
    return _declare(f, pass_arguments, SPOOL_OK)


@overload
def spoolraw(f: Callable[..., Any], pass_arguments: bool = ...) -> SpooledFunction: ...
@overload
def spoolraw(f: None = ..., pass_arguments: bool = ...) -> Decorator: ...
def spoolraw(f: Callable[..., Any] | None = None, pass_arguments: bool = False) -> SpooledFunction | Decorator:
    """As :func:`spool`, but the function returns ``SPOOL_OK``, ``SPOOL_RETRY`` or ``SPOOL_IGNORE``."""
    return _declare(f, pass_arguments, None)


@overload
def spoolforever(f: Callable[..., Any], pass_arguments: bool = ...) -> SpooledFunction: ...
@overload
def spoolforever(f: None = ..., pass_arguments: bool = ...) -> Decorator: ...
def spoolforever(f: Callable[..., Any] | None = None, pass_arguments: bool = False) -> SpooledFunction | Decorator:
    """As :func:`spool`, but each job runs again and again, until somebody cancels it or it is out of attempts."""
    return _declare(f, pass_arguments, SPOOL_RETRY)


def _declare(
    f: Callable[..., Any] | None, pass_arguments: bool, fixed: SpoolResult | None
) -> SpooledFunction | Decorator:
    if f is None:
        return partial(SpooledFunction, pass_arguments=pass_arguments, fixed=fixed)
    return SpooledFunction(f, pass_arguments, fixed)
