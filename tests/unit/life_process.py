"""Work in a child process, which may end in any way, or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from spoolkit.system import polling

DEADLINE = 60.0
"""Seconds that a child may take, and that a test waits for what a child writes."""


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


def wait_child(pid: int, seconds: float = DEADLINE) -> int:
    """Wait for the child and return its exit status, or minus the number of the signal that ended it.

    A child that does not end is killed and fails the test. Where it was is on the standard error of the run.
    """
    if not _ends(pid, seconds):
        os.kill(pid, signal.SIGABRT)  # pytest has it write its stack
        with contextlib.suppress(OSError):
            time.sleep(1)
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise AssertionError(f"the child {pid} has not ended within {seconds:g} s")
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _ends(pid: int, seconds: float) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True  # it is no child, or another wait has had it: the next one says so
    try:
        return bool(polling.readable([process], seconds))
    finally:
        os.close(process)


def in_child(work: Callable[[], object]) -> int:
    """Do ``work`` in a child and return its exit status."""
    return wait_child(start_child(work))


def read_pipe(pipe: int, size: int = 1) -> bytes:
    """Read from a pipe into which a child writes, or which a child closes."""
    assert polling.readable([pipe], DEADLINE), f"nothing came within {DEADLINE:g} s"
    return os.read(pipe, size)
