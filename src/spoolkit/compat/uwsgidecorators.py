"""The names of uwsgidecorators, for a site that leaves uWSGI, or that wants its jobs bounded there: docs/compat.md.

Under uWSGI all names but those of the spooler are those of the module ``uwsgidecorators`` itself. Elsewhere each works
without uWSGI, or raises an error at its declaration that says what stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, overload

from spoolkit.compat.spooled import SpooledFunction
from spoolkit.compat.spooled import functions as spooler_functions
from spoolkit.errors import ConfigurationError
from spoolkit.job import SPOOL_OK, SPOOL_RETRY, SpoolResult
from spoolkit.uwsgi import bridge

if bridge.is_uwsgi():
    try:
        from uwsgidecorators import (
            cron,
            erlang,
            farm,
            farm_loop,
            filemon,
            get_free_signal,
            harakiri,
            lock,
            manage_spool_request,
            mule,
            mule_brain,
            mule_brainloop,
            mule_functions,
            mule_msg_dispatcher,
            mulefunc,
            muleloop,
            mulemsg,
            mulemsg_loop,
            postfork,
            postfork_chain,
            postfork_chain_hook,
            rbtimer,
            rpc,
            signal,
            thread,
            timer,
        )
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "this uWSGI has come without its module uwsgidecorators, which has the names that are not about the "
            "spooler: install it (pip install uwsgi, or Debian's python3-uwsgidecorators)",
            setting="uwsgidecorators",
        ) from error
else:
    from spoolkit.compat.mules import functions as mule_functions
    from spoolkit.compat.mules import mule, mulefunc, muleloop
    from spoolkit.compat.processes import at_fork as postfork_chain
    from spoolkit.compat.processes import lock, postfork, thread
    from spoolkit.compat.refused import refusing
    from spoolkit.compat.timed import cron, get_free_signal, rbtimer, timer

    erlang = refusing("erlang")
    farm = refusing("farm")
    farm_loop = refusing("farm_loop")
    filemon = refusing("filemon")
    harakiri = refusing("harakiri")
    manage_spool_request = refusing("manage_spool_request")
    mule_brain = refusing("mule_brain")
    mule_brainloop = refusing("mule_brainloop")
    mule_msg_dispatcher = refusing("mule_msg_dispatcher")
    mulemsg = refusing("mulemsg")
    mulemsg_loop = refusing("mulemsg_loop")
    postfork_chain_hook = refusing("postfork_chain_hook")
    rpc = refusing("rpc")
    signal = refusing("signal")

__all__ = [
    "cron",
    "erlang",
    "farm",
    "farm_loop",
    "filemon",
    "get_free_signal",
    "harakiri",
    "lock",
    "manage_spool_request",
    "mule",
    "mule_brain",
    "mule_brainloop",
    "mule_functions",
    "mule_msg_dispatcher",
    "mulefunc",
    "muleloop",
    "mulemsg",
    "mulemsg_loop",
    "postfork",
    "postfork_chain",
    "postfork_chain_hook",
    "rbtimer",
    "rpc",
    "signal",
    "spool",
    "spool_decorate",
    "spooler_functions",
    "spoolforever",
    "spoolraw",
    "thread",
    "timer",
]

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


spool_decorate = spoolraw
