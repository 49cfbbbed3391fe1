"""What does a signal to exit do to a spooler? It finishes its job and exits; the master starts a new spooler.

While a job runs, the signals are only recorded. Between two jobs nothing is half done: there they end the process at
once, also within uWSGI's C code, where no Python would run; only if the application has hooks for the end, a thread
runs these first.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.signal makes enums of its answers: five times the time
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from spoolkit.system.task_signals import STOP_SIGNALS

_STOP_SIGNALS = tuple(map(int, STOP_SIGNALS))


class _Spooler:
    """The state of the spooler process that runs the job."""

    #: Its pid: a child that the task forked has another one.
    pid = 0
    #: Whether it exits once its job is settled.
    exit_requested = False
    #: Where Python writes the number of each signal that it handles; -1: nowhere.
    wakeup = -1


_spooler = _Spooler()

_busy = threading.Lock()
"""Held while a job runs, and by the thread that ends this process while it is idle."""


def begin() -> None:
    """Let the signals end this process, which is a spooler from now on."""
    _spooler.pid = os.getpid()
    _set_idle()


def run_at_exit(last: Callable[[], None]) -> None:
    """Have ``last()`` called also where a signal asks this process to exit while it is idle. Called while a job runs.

    In a thread: an idle spooler is within uWSGI's C code, where its main thread runs no Python.
    """
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        # Blocked in the thread: the signal that wakes the spooler must interrupt the main thread.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            threading.Thread(target=_watch, args=(reader, last), name="spoolkit-exit", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except BaseException:
        os.close(reader)
        os.close(writer)
        raise
    # Only now: without the thread, an idle process would not exit at a signal any more.
    _busy.acquire()
    _spooler.wakeup = writer


def _watch(reader: int, last: Callable[[], None]) -> None:
    while found := os.read(reader, 64):
        # While a job runs, the handler has recorded the signal, or does so before job_ended() looks for the last time.
        if not set(found).isdisjoint(_STOP_SIGNALS) and _busy.acquire(blocking=False):
            _exit(last)


def _set_idle() -> None:
    """Let the signals end this process at once: it runs no job."""
    if _spooler.wakeup != -1:
        try:
            signal.set_wakeup_fd(_spooler.wakeup, warn_on_full_buffer=False)  # a task may have set another one
        except (OSError, ValueError):  # a task has closed it, and its number may be that of another file
            _spooler.exit_requested = True
        _signal.signal(signal.SIGTERM, _record)
        _signal.signal(signal.SIGINT, _record)
        _signal.signal(signal.SIGQUIT, _signal.SIG_IGN)
        return
    _signal.signal(signal.SIGTERM, _signal.SIG_DFL)
    _signal.signal(signal.SIGINT, _signal.SIG_DFL)
    # By default it leaves a core file. Where it is sent to all processes, as Ctrl-\ in a terminal does, the master
    # stops as well.
    _signal.signal(signal.SIGQUIT, _signal.SIG_IGN)


def job_starts() -> None:
    """Record the signals from here on: a job is about to run in this process."""
    if _spooler.wakeup != -1:
        _busy.acquire()  # for ever, if this process is just being ended
    for signum in _STOP_SIGNALS:
        _signal.signal(signum, _record)


def request_exit() -> None:
    """Have :func:`job_ended` exit this process, as if a signal had asked for it."""
    _spooler.exit_requested = True


def is_exit_requested() -> bool:
    """Return whether this process exits before its next job."""
    return _spooler.exit_requested


def job_ended(last: Callable[[], None]) -> None:
    """Let the signals end this process again: the job is settled. Exit now if a signal came meanwhile.

    Args:
        last: Called before this process exits.
    """
    # Blocked: a signal between the two lines would find neither the handler nor the default action, and be lost.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _STOP_SIGNALS)
    _set_idle()
    if _spooler.exit_requested:
        _exit(last)
    if _spooler.wakeup != -1:
        _busy.release()
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _STOP_SIGNALS)
    # Another thread, of the application, does not block them: the handler has not run yet when it was asked above, and
    # the thread that waits for signals has left this one to it.
    if _spooler.wakeup != -1 and _spooler.exit_requested and _busy.acquire(blocking=False):
        _exit(last)


def _record(signum: int, frame: FrameType | None) -> None:
    if os.getpid() == _spooler.pid:
        _spooler.exit_requested = True
        return
    # In a child that the task forked, the signal has its default effect.
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _exit(last: Callable[[], None]) -> None:
    try:
        last()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        # Not sys.exit(): uWSGI's own exit of a spooler waits for threads that a task may have left behind.
        os._exit(0)
