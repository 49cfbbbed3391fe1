"""What the master of this uWSGI is at, as /proc tells. When it stops, no Python is called in it that could say so."""

from __future__ import annotations

import signal

from spoolkit.system import process

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})

_MASK = sum(1 << (signum - 1) for signum in STOP_SIGNALS)


def is_stopping(pid: int) -> bool:
    """Whether the master ``pid`` is in the handler of a stop signal: in ``gracefully_kill_them_all``, until the end."""
    return bool(_signals(pid, b"SigBlk:") & _MASK)


def is_hurried(pid: int) -> bool:
    """Whether the signal that stops the master has come once more: it waits until the handler of the first is over."""
    return bool((_signals(pid, b"ShdPnd:") | _signals(pid, b"SigPnd:")) & _MASK)


def is_asleep(pid: int) -> bool:
    """Whether the master sleeps, as it does when something else than a signal stops it: its fifo, or an Emperor."""
    try:
        with open(f"/proc/{pid}/wchan", "rb") as file:
            return b"nanosleep" in file.read()
    except OSError:
        return False


def is_doomed(pid: int) -> bool:
    """Whether the process ``pid`` is dead, or will be before it does anything more."""
    # A spooler has the lowest priority: on a busy machine it may take a while to die. The signal is taken off the
    # pending ones a moment before that.
    return bool(_signals(pid, b"SigPnd:") & 1 << (signal.SIGKILL - 1)) or process.is_exiting(pid)


def catches(pid: int, signum: int) -> bool:
    """Whether the process ``pid`` has a handler for this signal."""
    return bool(_signals(pid, b"SigCgt:") & 1 << (signum - 1))


def _signals(pid: int, line: bytes) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            found = file.read().partition(b"\n" + line)[2]
    except OSError:
        return 0
    return int(found[:40].split()[0], 16) if found else 0
