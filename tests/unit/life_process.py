"""Work in a child process, which may end in any way."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def start_child(work: Callable[[], object]) -> int:
    """Fork a child that does ``work`` and exits; return its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def wait_child(pid: int) -> int:
    """Wait for the child and return its exit status, or minus the number of the signal that ended it."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def in_child(work: Callable[[], object]) -> int:
    """Do ``work`` in a child and return its exit status."""
    return wait_child(start_child(work))
