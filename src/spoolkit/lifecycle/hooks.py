"""What runs when a process starts to serve, and before it exits? The same for every server."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import click
from flask import Flask

from spoolkit import application
from spoolkit.errors import ConfigurationError
from spoolkit.lifecycle import flask_run, granian, gunicorn, waitress
from spoolkit.settings import Settings
from spoolkit.system import clock, log, task_signals
from spoolkit.uwsgi import bridge

StartHook = Callable[[], None]
"""Starts background work of this process."""

EndHook = Callable[[clock.Deadline], None]
"""Stops background work of this process by the deadline that it is given."""

_start_hooks: list[StartHook] = []
"""Those of each application, of :func:`before_requests`."""

_end_hooks: list[EndHook] = []


def check_threads() -> None:
    """Raise :class:`ConfigurationError` if uWSGI runs without ``enable-threads``: Python's threads would not run."""
    if not bridge.has_threads():
        raise ConfigurationError(
            "Python's threads are not enabled in this uWSGI: a @thread task would run only while a request is served, "
            "or never. Set enable-threads = true in uwsgi.ini",
            setting="enable-threads",
        )


def check_serves() -> None:
    """Raise :class:`ConfigurationError` in a master process, which only forks: the forks would have no such thread."""
    if bridge.is_master() or (gunicorn.is_loaded() and gunicorn.is_arbiter()):
        raise ConfigurationError(
            "a @thread task was called in the server's master process. Threads do not survive its forks: call the task "
            "from a request, or from a BackgroundThread's startup()"
        )


def at_start(app: Flask, start: StartHook) -> None:
    """Call ``start()`` in each process that serves ``app``, once it serves; the call may be repeated there.

    It is not called in processes that never serve: a server's master, a reloader's watching process, a command line.
    Under a server that spoolkit does not know it is called before each request.

    Args:
        app: The application.
        start: The hook. Under ``flask run`` and in a process that serves already it is called before this returns.
    """
    if bridge.is_uwsgi():
        bridge.at_start(start)
    elif gunicorn.is_loaded():
        gunicorn.at_worker_start(start)
    elif granian.is_worker() or waitress.is_serving():
        start()
    elif (context := click.get_current_context(silent=True)) is not None:
        if flask_run.is_serving(context):
            start()
    elif not app.testing:
        app.before_request(start)


def before_requests(start: StartHook) -> None:
    """Call ``start()`` before each request of each application of this process, also of those that are not made yet.

    Not as soon as the process serves, as :func:`at_start` does: the code of the application would still be loading, and
    what ``start()`` needs may stand further down in it. After the fork of ``gunicorn --preload`` it is called at once.
    """
    _start_hooks.append(start)
    for app, _ in application.all_callbacks():
        _add_before_requests(app, start)


def application_made(app: Flask) -> None:
    """Have the hooks of :func:`before_requests` called in processes that serve ``app``."""
    for start in _start_hooks:
        _add_before_requests(app, start)


def _add_before_requests(app: Flask, start: StartHook) -> None:
    if gunicorn.is_loaded() and gunicorn.is_arbiter():
        gunicorn.at_worker_start(start)
    if not app.testing:
        # First, because the application's own functions may need it; and also where it has answered requests already.
        app.before_request_funcs[None].insert(0, start)


def run_start_hooks() -> None:
    """Call the hooks of :func:`before_requests`, in a process that serves jobs."""
    for start in _start_hooks:
        start()


def at_end(end: EndHook, *, first: bool = False) -> None:
    """Call ``end(deadline)`` when this process, or one that it forks, exits gracefully.

    uWSGI, gunicorn, waitress and the development server exit through Python's own shutdown, workers of Granian through
    that of multiprocessing. A process that is killed, by harakiri or by a signal without a handler, calls nothing.

    Args:
        end: The hook; registered once, however often this is called with it.
        first: Whether to call it before the hooks that are registered already.
    """
    if end not in _end_hooks:
        _end_hooks.insert(0 if first else len(_end_hooks), end)
    _run_at_exit(granian.is_worker())


@functools.cache  # registered once; a forked process inherits the registration
def _run_at_exit(is_granian_worker: bool) -> None:
    if is_granian_worker:  # which has lost what was registered before the fork
        granian.at_worker_end(run_end_hooks)
    atexit.register(run_end_hooks)
    if bridge.is_uwsgi():
        # uWSGI's own hook comes before Python's: threads can still be started there, and skip-atexit-teardown does not
        # leave it out.
        bridge.at_end(run_end_hooks)


def run_end_hooks(grace: float | None = None) -> None:
    """End what this process does in the background: its pool of threads and its background threads.

    Call it where a process exits without Python's own shutdown. It may be called again. It never raises ``Exception``.

    Args:
        grace: The grace period in seconds; ``None``: SPOOLKIT_THREAD_GRACE.
    """
    began, done = time.monotonic(), list[EndHook]()
    deadline = clock.Deadline(began + (_thread_grace() if grace is None else grace))

    def hurry() -> None:
        # A terminal and the server's master may both send the first signal. A later one asks to end at once.
        if time.monotonic() - began > clock.SAME_SIGNAL:
            deadline.bring_forward()

    while True:
        try:
            with _interruptions_handled_by(hurry):
                _run_all(done, deadline)
            return
        except (KeyboardInterrupt, SystemExit):
            hurry()


@contextlib.contextmanager
def _interruptions_handled_by(hurry: Callable[[], None]) -> Iterator[None]:
    """Within it, a signal that would interrupt this thread with an exception calls ``hurry`` instead.

    Such an exception, raised at any moment, would leave a lock shared with the threads that are waited for in disorder.
    """
    if bridge.is_uwsgi() or threading.current_thread() is not threading.main_thread():
        # uWSGI's handlers belong to its C code: Python does not know them.
        yield
        return
    current = {signum: signal.getsignal(signum) for signum in task_signals.STOP_SIGNALS}
    before = {signum: handler for signum, handler in current.items() if callable(handler)}

    def handle(signum: int, frame: FrameType | None) -> None:
        try:
            before[signal.Signals(signum)](signum, frame)
        except (KeyboardInterrupt, SystemExit):
            hurry()
        else:
            if granian.is_worker():  # its handler only sets a flag
                hurry()

    try:
        for signum in before:
            signal.signal(signum, handle)
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _thread_grace() -> float:
    try:
        return application.settings().thread_grace
    except ConfigurationError:
        return Settings.thread_grace


def _run_all(done: list[EndHook], deadline: clock.Deadline) -> None:
    # A hook may add another one: the shutdown of a background thread may call the first @thread task of this process.
    while end := next((end for end in _end_hooks if end not in done), None):
        try:
            end(deadline)
        except Exception:
            log.exception(
                "process %d is exiting; its background threads or its thread pool failed to stop", os.getpid()
            )
        done.append(end)
