"""Named in uwsgi.ini (``import = spoolkit.guard``, ``spooler-import = spoolkit.guard``), it loads the application.

It loads what uWSGI serves, in HTTP processes and in spoolers alike: see served.py. Where a new version cannot be
loaded, a process that uWSGI has started for it ends again, and tries anew, instead of serving without an application:
the processes that run the old version go on, none of them is reloaded until the new one loads, and the spoolers keep to
the old one. At the very start nothing goes on: uWSGI gives up (``need-app``).
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
"""Seconds before uWSGI starts another process in the place of one that could not load the application."""

FIRST = 10.0
"""Seconds that the other processes wait for the first HTTP process to say why the application cannot be loaded."""

FAILED_APP = 22
"""The exit code by which uWSGI knows an HTTP process that has no application (UWSGI_FAILED_APP_CODE in uwsgi.h)."""

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


def load() -> None:
    """Load the applications that uWSGI serves, or end this process."""
    wanted = served.here()
    if not wanted:
        _log("spoolkit.guard: uwsgi.ini names no application (module = shop:create_app()); nothing is loaded")
        return
    name = ", ".join(map(str, wanted))
    try:
        if served.has_separate_interpreters(served.options()):
            raise ConfigurationError(served.SEPARATE, setting="single-interpreter")
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
        # uWSGI executes the file after this. It prints what goes wrong there, and then takes the whole instance down.
        sys.excepthook = _ending(name, sys.excepthook)
    elif bridge.respawns():
        shutdown.recycle_old_spoolers()  # before it serves: what the new version enqueues is not for the old one to run


def _ending(name: str, printed: Hook) -> Hook:
    pid = os.getpid()

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if os.getpid() == pid and not bridge.has_application():
            _give_up(name, "".join(traceback.format_exception(kind, error, trace)))
        printed(kind, error, trace)

    return hook


def _give_up(name: str, why: str) -> NoReturn:
    """End this process, which has no application, and say what follows from that."""
    is_original = bridge.is_worker() and not bridge.respawns()
    # Where another process serves, the code has changed since: an instance that serves must not be taken down.
    begins = is_original and not bridge.has_any_application()
    if begins and bridge.is_first_worker():
        follows = "the site does not start"
    else:
        # At a first start all processes fail alike: the first says why, and ends the instance.
        until = time.monotonic() + (0 if bridge.is_worker() and not begins else FIRST)
        while bridge.first_worker_pid() and not bridge.has_any_application() and time.monotonic() < until:
            shutdown.wait_for_shutdown(PAUSE / 10)
        if begins and not bridge.first_worker_pid():
            os._exit(FAILED_APP)
        shutdown.wait_for_shutdown(PAUSE)
        if bridge.is_spooler():
            follows = "this spooler runs no job, and is started again until it can be"
            reason = why.rstrip().rpartition("\n")[2]
            if not spoolers.publish_load_error(bridge.spooler_directory(), f"{name} cannot be loaded: {reason}"):
                os._exit(1)  # the log has it, and all other spoolers of the directory fail alike
        else:
            going_on = "have loaded it" if is_original else "run the old version"
            follows = f"the processes that {going_on} go on" if bridge.has_any_application() else "no process serves it"
    _log(f"{why}spoolkit: {name} cannot be loaded; {follows}")
    os._exit(FAILED_APP if begins else 1)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - nobody has configured logging yet


if bridge.is_worker() or bridge.is_spooler():
    shutdown.install()  # before the application is there: a stop may come first
    if bridge.is_spooler():
        spooler_signals.set_idle()  # until then SIGQUIT has the master's handler here, which kills the other spoolers
    load()
