"""A test that takes too long ends its process and all processes below it, and everybody can read where each one was."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from pathlib import Path

import pytest

STANDARD_ERROR = pytest.StashKey[int]()
"""The descriptor of the process's own standard error, which the capture of a test does not replace."""

DUMP = 1.0
"""Seconds that the processes below get to write where they are."""


def watch(item: pytest.Item, seconds: float) -> None:
    """End this process unless ``item.cancel_timeout()`` is called within ``seconds``.

    By a thread of our own: that of pytest-timeout writes to the terminal, which a process of ``pytest -n`` has not, and
    leaves the processes of the test alone. They would keep standard error open, and so the pipe of who reads it.
    Not by ``faulthandler_timeout``: the hard limit of a task, which a test runs in this process, would take its place.
    """
    timer = threading.Timer(seconds, _end, (item.nodeid, seconds, item.config.stash[STANDARD_ERROR]))
    timer.daemon = True

    def cancel() -> None:
        timer.cancel()
        timer.join()  # of a test that went on while it was ended, no end is reported

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    # In the thread, all signals are blocked: a test may send some to this process, and block them first.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    timer.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(test: str, seconds: float, fd: int) -> None:
    os.write(fd, f"\n{test} has not ended within {seconds:g} s. All threads of process {os.getpid()}:\n".encode())
    faulthandler.dump_traceback(fd)
    below = descendants(os.getpid())
    for pid in below:
        os.write(fd, f"\nProcess {pid} below it, which is ended: {_command(pid)}\n".encode())
        send(pid, signal.SIGABRT)  # a forked child writes its stack
        time.sleep(DUMP / len(below))
    for pid in [*below, *descendants(os.getpid())]:
        send(pid, signal.SIGKILL)
    os._exit(1)


def descendants(pid: int) -> list[int]:
    """The processes below a process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def send(pid: int, signum: int) -> None:
    """Signal a process that may be gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "(gone)"
