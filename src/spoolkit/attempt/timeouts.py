"""How long may an attempt take? A soft limit raises in the task, a hard limit ends the process."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
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

    def ring_again() -> None:
        if inside:
            signal.setitimer(signal.ITIMER_REAL, AGAIN)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])  # an earlier task may have blocked it
        with _unless_lost(ring_again):
            signal.setitimer(signal.ITIMER_REAL, seconds)  # it may ring before the next line
            yield
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)


@contextlib.contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    thread, lock, inside, is_lost = threading.get_ident(), threading.Lock(), True, False
    raised = type("JobTimeout", (JobTimeout,), {"__init__": lambda self: JobTimeout.__init__(self, message(seconds))})

    def ring() -> None:
        nonlocal is_lost
        while True:
            with lock:
                if not inside:
                    return
                is_lost = False
                _raise_in(thread, raised)
            while not is_lost:
                if timer.finished.wait(AGAIN):
                    return

    def ring_again() -> None:
        nonlocal is_lost
        is_lost = True  # and nothing else: this thread may have any lock, also one of the module threading

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    try:
        # Python 3.12 starts no thread during the interpreter's exit. Then the job has whatever time is left.
        with contextlib.suppress(RuntimeError), lock:  # raised within start(), it would surface as a KeyError
            timer.start()
        with _unless_lost(ring_again):
            yield
    finally:
        with lock:
            inside = False
            _raise_in(thread, None)  # takes back one that was requested and is not raised yet
        timer.cancel()


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    value = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), value)


AGAIN = 0.005
"""Seconds after which a soft limit is raised once more, if it was lost."""

_if_lost: dict[int, Callable[[], None]] = {}
"""By thread: what to call if the limit in force there is lost."""


@contextlib.contextmanager
def _unless_lost(ring_again: Callable[[], None]) -> Iterator[None]:
    """Call ``ring_again()`` if the limit is lost within the block: raised where Python raises nothing, but reports it.

    That is so in finalizers, and in the callbacks of the garbage collector, which some libraries add. A long collection
    makes it likely: whatever strikes meanwhile is raised in the first Python code after it, which is such a callback.
    """
    watch_reports()
    thread = threading.get_ident()
    outer = _if_lost.get(thread)
    _if_lost[thread] = ring_again
    try:
        yield
    finally:
        if outer is None:
            _if_lost.pop(thread, None)
        else:
            _if_lost[thread] = outer


_report: Callable[[sys.UnraisableHookArgs], object] | None = None
"""What :func:`watch_reports` has last put in the place of ``sys.unraisablehook``."""


def watch_reports() -> None:
    """Hear of soft limits that are lost. It stays in place, and so belongs to what a process is before its jobs."""
    global _report
    if (report_others := sys.unraisablehook) is _report:
        return

    def report(about: sys.UnraisableHookArgs) -> None:
        ring_again = _if_lost.get(threading.get_ident())
        if ring_again is not None and issubclass(about.exc_type, JobTimeout):
            ring_again()
        else:
            report_others(about)

    sys.unraisablehook = _report = report


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
