"""What do signals do in a process that runs jobs, and in the processes that its tasks fork?"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Signals that ask for a graceful shutdown."""

HARMLESS = (signal.SIGHUP, signal.SIGUSR2, signal.SIGALRM)
"""Signals that end a process by default, but mean nothing to a process that runs jobs."""

PENDING_TIME = 1.0
"""Seconds for which a thread waits until the main thread handles a pending signal."""

_SERVERS = frozenset({"spoolkit", "granian", "gunicorn"})
"""Packages whose signal handlers belong to the server process, never to a task."""

_IGNORED_BY_SERVER = frozenset(
    signum for signum in signal.valid_signals() if signal.getsignal(signum) is signal.SIG_IGN
) - {signal.SIGPIPE, signal.SIGXFSZ}  # Python's own
"""Signals that were ignored when Python started: uWSGI does that."""

_in_job: ContextVar[bool] = ContextVar("spoolkit.in_job", default=False)


class _ThisProcess:
    #: Whether it runs a job to which every fork in it belongs.
    job_owns_it = False


_this_process = _ThisProcess()


def ignore_harmless() -> None:
    """Keep the signals in :data:`HARMLESS` from ending this process."""
    for signum in HARMLESS:
        # A handler instead of SIG_IGN: programs that a task starts would inherit SIG_IGN, and ignore the signal as
        # well.
        signal.signal(signum, _nothing)


def _nothing(signum: int, frame: FrameType | None) -> None:
    pass


def block_in_thread() -> None:
    """Block all signals in this thread, so that they reach the main thread. Does nothing in the main thread."""
    _set_thread_mask(signal.valid_signals())


def unblock_in_thread() -> None:
    """Undo :func:`block_in_thread`, unless a signal that stops the server is pending for :data:`PENDING_TIME`."""
    # A pending one is the main thread's, which may still wait for a processor. A thread that unblocks it handles it
    # instead: uWSGI's handler would end the process from here, and wait for this very thread.
    deadline = time.monotonic() + PENDING_TIME
    while not _in_main_thread() and not signal.sigpending().isdisjoint((*STOP_SIGNALS, signal.SIGHUP)):
        if time.monotonic() > deadline:
            return  # the main thread is exiting, and has blocked it
        time.sleep(0.001)
    _set_thread_mask(())


def _set_thread_mask(blocked: Iterable[int]) -> None:
    if not _in_main_thread():
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _in_main_thread() -> bool:
    # Not by threading: a greenlet (gevent) runs in the main thread, which must not become deaf to signals.
    return threading.get_native_id() == os.getpid()


class job:  # noqa: N801 - a function would be a generator, whose frames take three times as long
    """Within this context, processes that the job forks handle signals by default, and not like this process.

    Otherwise a forked child would keep the server's handlers: on SIGTERM it would record the signal and continue, and a
    ``multiprocessing.Pool`` would wait for its processes for ever.

    Args:
        owns_process: Whether every fork in this process belongs to the job, from whichever thread.
    """

    def __init__(self, *, owns_process: bool = False) -> None:
        self._owns_process = owns_process

    def __enter__(self) -> None:
        self._token = _in_job.set(True)
        if self._owns_process:
            _this_process.job_owns_it = True

    def __exit__(self, *_: object) -> None:
        _in_job.reset(self._token)
        if self._owns_process:
            _this_process.job_owns_it = False


def _use_defaults_in_child() -> None:
    if not (_this_process.job_owns_it or _in_job.get()):
        return
    signal.set_wakeup_fd(-1)  # its reader is in the parent
    for signum in signal.valid_signals():
        handler = signal.getsignal(signum)
        if handler is None or _belongs_to_server(signum, handler):
            handler = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
        with suppress(OSError):  # SIGKILL and SIGSTOP
            # Also where Python knows no handler: uWSGI installs its own in C, unknown to Python.
            signal.signal(signum, handler)


def _belongs_to_server(signum: int, handler: object) -> bool:
    if handler is signal.SIG_IGN:
        return signum in _IGNORED_BY_SERVER
    return str(getattr(handler, "__module__", "")).partition(".")[0] in _SERVERS


os.register_at_fork(after_in_child=_use_defaults_in_child)
