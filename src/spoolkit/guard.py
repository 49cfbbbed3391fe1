"""What happens if the application cannot be loaded? This module loads it in the processes of uWSGI.

It is named in uwsgi.ini (``import`` and ``spooler-import``). It loads the applications that uWSGI serves, in HTTP
processes and in spoolers: see ``uwsgi/served.py``. If the code cannot be loaded, the new process exits instead of
serving without an application, and uWSGI starts another one, which tries again. Meanwhile the processes with the old
code continue: none of them is reloaded before the new code loads, and the spoolers keep the old code. When uWSGI itself
starts, there is no old code: uWSGI gives up (``need-app``).
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from spoolkit.errors import ConfigurationError
from spoolkit.lifecycle import shutdown, spooler_signals
from spoolkit.spooldir import spoolers
from spoolkit.uwsgi import bridge, served

PAUSE = 1.0
"""Seconds for which a process that could not load the application waits before it exits, and uWSGI starts another."""

FIRST_WORKER_TIME = 10.0
"""Seconds for which the other processes wait for the first HTTP process to log why the application cannot be loaded."""

FAILED_APP = 22
"""The exit code of an HTTP process without an application, at which uWSGI stops (UWSGI_FAILED_APP_CODE in uwsgi.h)."""

ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


def load() -> None:
    """Load the applications that uWSGI serves, or exit this process."""
    wanted = served.own_targets()
    if not wanted:
        _log("spoolkit.guard: uwsgi.ini names no application, so none is loaded (example: module = shop:create_app())")
        return
    name = ", ".join(map(str, wanted))
    try:
        if served.has_separate_interpreters(served.options()):
            raise ConfigurationError(served.SEPARATE_INTERPRETERS, setting="single-interpreter")
        if bridge.is_worker():
            served.load_once(wanted)
        else:
            for target in wanted:
                served.load(target)
    except BaseException:
        _give_up(name, traceback.format_exc())
    if not bridge.is_worker():
        spoolers.clear_load_error(bridge.spooler_directory())
        return
    if any(target.file for target in wanted):
        # uWSGI executes the file later. If that fails, uWSGI prints the exception, and then stops the whole instance.
        sys.excepthook = _exiting_hook(name, sys.excepthook)
    elif bridge.respawns():
        shutdown.recycle_old_spoolers()  # before it serves: the old code must not run jobs that the new code enqueues


def _exiting_hook(name: str, print_exception: ExceptHook) -> ExceptHook:
    """An exception hook that exits this process if the application is not loaded yet."""
    pid = os.getpid()

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if os.getpid() == pid and not bridge.has_application():
            _give_up(name, "".join(traceback.format_exception(kind, error, trace)))
        print_exception(kind, error, trace)

    return hook


def _give_up(name: str, details: str) -> NoReturn:
    """Exit this process, which has no application, and log the reason and the consequence."""
    # An HTTP process that uWSGI forked at its start, and not the successor of another one.
    is_original = bridge.is_worker() and not bridge.respawns()
    # If another process serves, the code has changed since uWSGI started: a serving instance must not be stopped.
    is_first_start = is_original and not bridge.has_any_application()
    if is_first_start and bridge.is_first_worker():
        consequence = "the site does not start"
    else:
        # At the start of uWSGI all processes fail alike: the first one logs the reason, and stops the instance.
        until = time.monotonic() + (0 if bridge.is_worker() and not is_first_start else FIRST_WORKER_TIME)
        while bridge.first_worker_pid() and not bridge.has_any_application() and time.monotonic() < until:
            shutdown.wait_for_shutdown(PAUSE / 10)
        if is_first_start and not bridge.first_worker_pid():
            os._exit(FAILED_APP)
        shutdown.wait_for_shutdown(PAUSE)
        if bridge.is_spooler():
            consequence = "this spooler runs no job; uWSGI starts it again until the application loads"
            reason = details.rstrip().rpartition("\n")[2]
            if not spoolers.publish_load_error(bridge.spooler_directory(), f"{name} cannot be loaded: {reason}"):
                os._exit(1)  # it was logged a moment ago: all spoolers of the directory fail alike
        else:
            others = "have loaded it" if is_original else "run the old version"
            serving = f"the processes that {others} continue"
            consequence = serving if bridge.has_any_application() else "no process serves it"
    _log(f"{details}spoolkit: {name} cannot be loaded; {consequence}")
    os._exit(FAILED_APP if is_first_start else 1)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - logging is not configured yet


if bridge.is_worker() or bridge.is_spooler():
    shutdown.install()  # before the application is loaded: a stop may come during that
    if bridge.is_spooler():
        # Until now SIGQUIT has the master's handler in this process, which kills the other spoolers.
        spooler_signals.begin()
    load()
