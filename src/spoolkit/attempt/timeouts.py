"""How long may an attempt take? A soft limit raises in the task, a hard limit ends the process."""

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
from spoolkit.system import log, watchdog
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import bridge

TIMEOUT_MARK = "Timeout ("
"""How the text that ``faulthandler`` writes at a hard limit starts."""

CRASH_MARK = "Fatal Python error: "
"""How the text that ``faulthandler`` writes at a crash starts."""


@contextlib.contextmanager
def soft(seconds: float | None) -> Iterator[None]:
    """Raise :class:`JobTimeout` in the ``with`` block once it has run for ``seconds``. ``None``: never.

    In the main thread this also interrupts a sleep or a system call; in other threads it is raised between two steps of
    Python code only.
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
    """Return the message of the :class:`JobTimeout` for a task that has run for ``seconds``."""
    return f"the task has run for {seconds:g} seconds, its timeout"


@contextlib.contextmanager
def _by_alarm(seconds: float) -> Iterator[None]:
    inside = True

    def ring(signum: int, frame: FrameType | None) -> None:
        if inside:  # the alarm may already be on its way when the timer is stopped
            raise JobTimeout(message(seconds))

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])  # an earlier task may have blocked it
        signal.setitimer(signal.ITIMER_REAL, seconds)  # it may ring before the next line
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
    try:
        # Python 3.12 starts no thread during the interpreter's exit. Then the job has whatever time is left.
        with contextlib.suppress(RuntimeError), lock:  # raised within start(), it would surface as a KeyError
            timer.start()
        yield
    finally:
        with lock:
            inside = False
            _raise_in(thread, None)  # takes back one that was requested and is not raised yet
        timer.cancel()


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    value = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), value)


_NO_WATCHDOG = (
    "the parent of this process had called faulthandler.dump_traceback_later() when it forked, so Python cannot end a"
    " task here at its hard limit; call it after the fork, or set lazy-apps"
)

_was_enabled = PerProcess(faulthandler.is_enabled)
"""Whether the site had enabled ``faulthandler`` before the first attempt in this process."""


class hard:  # noqa: N801 - a function would be a generator, whose frames take three times as long
    """End this process if the ``with`` block runs longer than ``seconds``, whatever it does then.

    Only for a process that runs one job at a time. In a spooler of uWSGI, the master kills the process as well, up to
    two seconds later.

    Args:
        seconds: The limit; ``None``: there is none.
        fd: The file that gets the traceback before the end, and, also without a limit, the one of a crash such as a
            segmentation fault. -1: no file. It stays the one of crashes until the next use, unless the site has
            ``faulthandler`` write elsewhere: to switch it on and off takes a dozen system calls.
    """

    def __init__(self, seconds: float | None, fd: int) -> None:
        self._seconds = seconds
        self._fd = fd

    def __enter__(self) -> None:
        self._was_enabled = _was_enabled.get()
        if self._fd >= 0:
            faulthandler.enable(self._fd, all_threads=False)
        if self._seconds is not None:
            # First: a site may have armed the watchdog before spoolkit was imported, and forked. Then this process
            # does not come back from the call below, and the master ends it.
            if bridge.is_spooler():
                bridge.set_harakiri(math.ceil(self._seconds) + 1)
            if not watchdog.arm(self._seconds, self._fd if self._fd >= 0 else 2):
                log.complain(_NO_WATCHDOG)

    def __exit__(self, *_: object) -> None:
        watchdog.cancel()  # and one that the task may have left behind
        if self._seconds is not None and bridge.is_spooler():
            bridge.set_harakiri(0)
        if self._fd >= 0 and self._was_enabled:
            try:
                faulthandler.enable(sys.__stderr__ or 2)
            except Exception:  # there is no standard error, or it is not a file
                faulthandler.disable()
