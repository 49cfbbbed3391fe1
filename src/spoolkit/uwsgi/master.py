"""What is uWSGI's master doing? Read from /proc: while it stops, it runs no Python code that could say so."""

from __future__ import annotations

import os
import signal

from spoolkit.system import process, task_signals

_STOP_MASK = sum(1 << (signum - 1) for signum in task_signals.STOP_SIGNALS)


def is_stopping(pid: int) -> bool:
    """Whether the master ``pid`` is in its handler of a stop signal: ``gracefully_kill_them_all``, until it exits."""
    return bool(_signals(pid, b"SigBlk:") & _STOP_MASK)


def is_stop_repeated(pid: int) -> bool:
    """Whether a stop signal has come once more: it is pending until the handler of the first one returns."""
    return bool((_signals(pid, b"ShdPnd:") | _signals(pid, b"SigPnd:")) & _STOP_MASK)


def is_sleeping(pid: int) -> bool:
    """Whether the master sleeps, as it does when it is stopped by something other than a signal: fifo or Emperor."""
    try:
        with open(f"/proc/{pid}/wchan", "rb") as file:
            return b"nanosleep" in file.read()
    except OSError:
        return False


def is_dying(pid: int) -> bool:
    """Whether the process ``pid`` is dead, or will be before it executes anything more."""
    # A spooler has the lowest priority: on a busy machine its death may take a while. The kernel removes SIGKILL from
    # the pending signals a moment before the process is dead.
    return bool(_signals(pid, b"SigPnd:") & 1 << (signal.SIGKILL - 1)) or process.is_exiting(pid)


def has_handler(pid: int, signum: int) -> bool:
    """Whether the process ``pid`` has a handler for this signal."""
    return bool(_signals(pid, b"SigCgt:") & 1 << (signum - 1))


def _signals(pid: int, line: bytes) -> int:
    """The set of signals in this line of ``/proc/<pid>/status``, as a bit mask; 0 if it cannot be read."""
    try:
        # Before each job: a file object would take as long again as the kernel.
        fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.read(fd, 65536).partition(b"\n" + line)[2]
        finally:
            os.close(fd)
    except OSError:
        return 0
    return int(found[:40].split()[0], 16) if found else 0
