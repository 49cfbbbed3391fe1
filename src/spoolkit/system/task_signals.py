"""What signals mean in a process that runs jobs, and in the processes that its tasks fork."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType

HARMLESS = (signal.SIGHUP, signal.SIGUSR2, signal.SIGALRM)
"""Signals that would end a process by default, and mean nothing to one that runs jobs."""

_SERVERS = frozenset({"spoolkit", "gunicorn"})
"""Packages whose signal handlers belong to the process itself and never to a task."""

_IGNORED_BY_SERVER = frozenset(
    signum for signum in signal.valid_signals() if signal.getsignal(signum) is signal.SIG_IGN
) - {signal.SIGPIPE, signal.SIGXFSZ}  # Python's own
"""Signals that Python found ignored: uWSGI does so before it starts Python."""

_in_job: ContextVar[bool] = ContextVar("spoolkit.in_job", default=False)
_job_process = 0


def ignore_harmless() -> None:
    """Let no harmless signal end this process."""
    for signum in HARMLESS:
        # A handler, not SIG_IGN: programs that a task starts would inherit that, and ignore the signal as well.
        signal.signal(signum, _nothing)


def _nothing(signum: int, frame: FrameType | None) -> None:
    pass


def leave_to_main_thread(leave: bool = True) -> None:
    """Block all signals in this thread, so that they reach the main thread, or (``leave=False``) none."""
    # A greenlet (gevent) runs in the main thread, which would be deaf then.
    if threading.get_native_id() != os.getpid():
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() if leave else [])


@contextmanager
def job(*, owns_process: bool = False) -> Iterator[None]:
    """While a job runs: what it forks handles signals as any Python process does, not as this one.

    A forked child would keep the server's handlers: told to end, it would note that, and go on (a
    ``multiprocessing.Pool`` then waits for its processes for ever).

    Args:
        owns_process: Whether every fork in this process is the job's, from whichever thread.
    """
    global _job_process
    token = _in_job.set(True)
    if owns_process:
        _job_process = os.getpid()
    try:
        yield
    finally:
        _in_job.reset(token)
        if owns_process:
            _job_process = 0


def _forked() -> None:
    if not (_job_process or _in_job.get()):
        return
    signal.set_wakeup_fd(-1)  # it leads into the parent
    for signum in signal.valid_signals():
        handler = signal.getsignal(signum)
        if handler is None or _is_servers(signum, handler):
            handler = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
        with suppress(OSError):  # SIGKILL and SIGSTOP
            # Also where Python knows of no handler: uWSGI sets its own behind Python's back.
            signal.signal(signum, handler)


def _is_servers(signum: int, handler: object) -> bool:
    if handler is signal.SIG_IGN:
        return signum in _IGNORED_BY_SERVER
    return str(getattr(handler, "__module__", "")).partition(".")[0] in _SERVERS


os.register_at_fork(after_in_child=_forked)
