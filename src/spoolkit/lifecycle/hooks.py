"""The life of this process, whichever server it belongs to: when it serves, and what is done before it ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import click
from flask import Flask
from flask.helpers import get_debug_flag

from spoolkit import application
from spoolkit.errors import ConfigurationError
from spoolkit.settings import Settings
from spoolkit.system import clock, log
from spoolkit.uwsgi import bridge

Start = Callable[[], None]
End = Callable[[clock.Deadline], None]
"""Ends something; gets the time by which that has to be done."""

SAME_SIGNAL = 1.0
"""Seconds within which two signals are one."""

_ends: list[End] = []
_ends_known = False


def check_threads() -> None:
    """Raise :class:`ConfigurationError` where threads would not run."""
    if not bridge.has_threads():
        raise ConfigurationError(
            "Python's threads are not enabled in this uWSGI, so that a @thread task would run only while a request is "
            "served, or never: set enable-threads = true in uwsgi.ini",
            setting="enable-threads",
        )


def check_stays() -> None:
    """Raise :class:`ConfigurationError` in a process that only forks those that serve: no thread would be in them."""
    if bridge.is_master() or (_has_gunicorn() and _is_gunicorns_arbiter()):
        raise ConfigurationError(
            "a @thread task was called in the server's master process, whose threads do not come along when it forks: "
            "call it from a request, or from a BackgroundThread's startup()"
        )


def at_start(app: Flask, start: Start) -> None:
    """Call ``start()`` in each process that serves ``app``, once it does; it may be called again there.

    In processes that never serve (a server's master, a reloader's watching process, a command line) it is not called.
    Under a server that is not known here it is called with the first request.
    """
    if bridge.is_uwsgi():
        bridge.at_start(start)
    elif _has_gunicorn():
        if _is_gunicorns_worker():
            start()
        else:  # --preload: the application is loaded before the fork
            arbiter = os.getpid()

            def forked() -> None:
                # What a worker forks in its turn is no worker, wherever it does that.
                if os.getppid() == arbiter and _is_gunicorns_worker():
                    start()

            os.register_at_fork(after_in_child=forked)
    elif (context := click.get_current_context(silent=True)) is not None:
        if serves(context):
            start()
    elif not app.testing:
        app.before_request(start)


def serves(context: click.Context) -> bool:
    """Whether this process is the one that serves under ``flask run``."""
    # With the reloader the application is loaded twice: in the watching process, and in the one that serves.
    return context.info_name == "run" and (not _reloads(context) or os.environ.get("WERKZEUG_RUN_MAIN") == "true")


def _reloads(context: click.Context) -> bool:
    reload = context.params.get("reload")
    return get_debug_flag() if reload is None else bool(reload)


def let_flask_run_end() -> None:
    """Have the development server end as servers do: by SIGTERM too, and not before its reloaded child."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "run" or threading.current_thread() is not threading.main_thread():
        return
    if not _reloads(context):
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    elif not serves(context) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C reaches both. The watching process would kill the one that serves a quarter of a second later.
        signal.signal(signal.SIGINT, _wait_for_child)


def _wait_for_child(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one is not to be waited for
    # A terminal has told them too, and they are at it by now; whoever has only this process's pid has not.
    time.sleep(0.3)
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as children:
        for pid in children.read().split():
            os.kill(int(pid), signum)


def at_end(end: End, *, first: bool = False) -> None:
    """Call ``end(deadline)`` when this process, or one that it forks, is asked to go; ``first``: before all others.

    uWSGI, gunicorn and the development server end by way of Python's own end. A process that is killed, by harakiri or
    by a signal that it does not handle, calls nothing.
    """
    global _ends_known
    if end not in _ends:
        _ends.insert(0 if first else len(_ends), end)
    if not _ends_known:
        _ends_known = True
        atexit.register(drain)
        if bridge.is_uwsgi():
            # Before Python's own end, where threads can be started still; and skip-atexit-teardown leaves that one out.
            bridge.at_end(drain)


def drain(grace: float | None = None) -> None:
    """End what this process does in the background, within ``grace`` seconds (``None``: SPOOLKIT_THREAD_GRACE).

    For whoever ends the process otherwise than by Python's end. May be called again. Never raises ``Exception``.
    """
    began, ended = time.monotonic(), list[End]()
    deadline = clock.Deadline(began + (_grace() if grace is None else grace))

    def again() -> None:
        # A terminal and the server's master both pass on the first signal; a later one is meant.
        if time.monotonic() - began > SAME_SIGNAL:
            deadline.bring_forward()

    while True:
        try:
            with _interruptions_noted(again):
                _end_all(ended, deadline)
            return
        except (KeyboardInterrupt, SystemExit):
            again()


@contextlib.contextmanager
def _interruptions_noted(note: Callable[[], None]) -> Iterator[None]:
    """Within it, a signal that would interrupt this thread by an exception calls ``note`` instead.

    Raised at any moment, the exception would leave a lock of the threads that are waited for in disorder.
    """
    if bridge.is_uwsgi() or threading.current_thread() is not threading.main_thread():
        # The handlers of uWSGI are C code's, which Python does not know of.
        yield
        return
    given = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)}
    before = {signum: handler for signum, handler in given.items() if callable(handler)}

    def handle(signum: int, frame: FrameType | None) -> None:
        try:
            before[signal.Signals(signum)](signum, frame)
        except (KeyboardInterrupt, SystemExit):
            note()

    try:
        for signum in before:
            signal.signal(signum, handle)
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _grace() -> float:
    try:
        return application.settings().thread_grace
    except ConfigurationError:
        return Settings.thread_grace


def _end_all(ended: list[End], deadline: clock.Deadline) -> None:
    # What ends may begin something: a thread's last words may be the first job of the pool.
    while end := next((end for end in _ends if end not in ended), None):
        try:
            end(deadline)
        except Exception:
            log.exception("the process ends, but not everything in it did")
        ended.append(end)


def _has_gunicorn() -> bool:
    return "gunicorn.arbiter" in sys.modules


def _is_gunicorns_worker() -> bool:
    # However deep this is called within a worker's main thread, it runs where the arbiter forked it.
    return "spawn_worker" in _arbiters_functions()


def _is_gunicorns_arbiter() -> bool:
    return bool(functions := _arbiters_functions()) and "spawn_worker" not in functions


def _arbiters_functions() -> set[str]:
    """The functions of gunicorn's arbiter within which this is called."""
    found, frame = set(), sys._getframe().f_back
    while frame is not None:
        if frame.f_globals.get("__name__") == "gunicorn.arbiter":
            found.add(frame.f_code.co_name)
        frame = frame.f_back
    return found
