"""Is faulthandler's watchdog armed, which ends a process after a time, and by which process?

The watchdog is a thread, so a forked child does not have the one of its parent. But the child has its lock, which that
thread would release: to cancel the watchdog there, or to arm it again, waits for ever, with the interpreter's own lock.
A site that arms it in a module has every process of a server without ``lazy-apps`` wait so. faulthandler does not tell
whether it is armed, so its two functions are replaced by ones that note the process.
"""

from __future__ import annotations

import faulthandler
import os
from functools import wraps
from typing import Any

_arm = faulthandler.dump_traceback_later
_cancel = faulthandler.cancel_dump_traceback_later


class _Watchdog:
    #: The process that armed it last and has not cancelled it; 0: none that is known.
    pid = 0


_watchdog = _Watchdog()


@wraps(_arm)
def _noting_arm(*args: Any, **kwargs: Any) -> None:
    _arm(*args, **kwargs)
    _watchdog.pid = os.getpid()


@wraps(_cancel)
def _noting_cancel() -> None:
    _cancel()
    _watchdog.pid = 0


faulthandler.dump_traceback_later = _noting_arm
faulthandler.cancel_dump_traceback_later = _noting_cancel


def arm(seconds: float, fd: int) -> bool:
    """Have the watchdog end this process in ``seconds``, after it has written the traceback into the file ``fd``.

    Returns:
        Whether it is armed; it cannot be in a process whose parent had it armed when it forked.
    """
    if _watchdog.pid not in (0, os.getpid()):
        return False
    _noting_arm(seconds, exit=True, file=fd)
    return True


def cancel() -> None:
    """Cancel the watchdog if this process has armed it, whoever it was in this process."""
    if _watchdog.pid == os.getpid():
        _noting_cancel()
