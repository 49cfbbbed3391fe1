"""How long an attempt may take: a soft limit that is raised within the task, a hard one that ends its process."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import math
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from spoolkit.errors import JobTimeout
from spoolkit.uwsgi import bridge

TIMEOUT_MARK = "Timeout ("
CRASH_MARK = "Fatal Python error: "
"""How faulthandler begins what it writes."""


@contextlib.contextmanager
def soft(seconds: float | None) -> Iterator[None]:
    """Raise :class:`JobTimeout` in what runs within, ``seconds`` from now. ``None``: never.

    In the main thread that interrupts a sleep or a system call as well; in another, only between two steps of Python.
    """
    if seconds is None:
        yield
    elif threading.current_thread() is threading.main_thread():
        with _by_alarm(seconds):
            yield
    else:
        with _by_thread(seconds):
            yield


def message(seconds: float) -> str:
    """What the :class:`JobTimeout` says of a task that ran for ``seconds``."""
    return f"the task has run for {seconds:g} seconds, its timeout"


@contextlib.contextmanager
def _by_alarm(seconds: float) -> Iterator[None]:
    inside = True

    def ring(signum: int, frame: FrameType | None) -> None:
        if inside:  # the alarm may be on its way while it is taken back
            raise JobTimeout(message(seconds))

    before = signal.signal(signal.SIGALRM, ring)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])  # an earlier task may have blocked it
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)


@contextlib.contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    thread, lock, inside = threading.get_ident(), threading.Lock(), True
    raised = type("JobTimeout", (JobTimeout,), {"__init__": lambda self: JobTimeout.__init__(self, message(seconds))})

    def ring() -> None:
        with lock:
            if inside:
                _raise_in(thread, raised)

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    # Python 3.12 starts no thread once the interpreter ends. The job has the time that is left then.
    with contextlib.suppress(RuntimeError), lock:  # raised within start(), it would come out as a KeyError
        timer.start()
    try:
        yield
    finally:
        with lock:
            inside = False
            _raise_in(thread, None)  # asked for, but not raised yet
        timer.cancel()


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    given = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)


@contextlib.contextmanager
def hard(seconds: float | None, fd: int) -> Iterator[None]:
    """End this process ``seconds`` from now, whatever it does then, and have its traceback in ``fd`` before.

    Also without a limit the traceback of a crash (a segmentation fault, say) goes there. In a spooler of uWSGI's it is
    the master that kills, up to two seconds later. For a process that runs one job at a time.
    """
    harakiri = bridge.is_spooler()
    was_enabled = faulthandler.is_enabled()
    if fd >= 0:
        faulthandler.enable(fd, all_threads=False)
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=fd if fd >= 0 else 2)
        if harakiri:
            bridge.set_harakiri(math.ceil(seconds) + 1)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()  # also one that the task has left behind
        if seconds is not None and harakiri:
            bridge.set_harakiri(0)
        if fd >= 0:
            faulthandler.disable()
            if was_enabled:
                with contextlib.suppress(Exception):  # no standard error, or one that is no file
                    faulthandler.enable(sys.__stderr__ or 2)
