"""Which process of this machine may do what only one process may do at a time? The one that has locked a file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spoolkit.system import files, log

RETRY_PAUSE = 5.0
"""Seconds between two attempts to create the lock file."""


@contextmanager
def exclusive_lock(path: str, wait: Callable[[float], bool]) -> Iterator[None]:
    """Hold an exclusive lock on a file for the ``with`` block; wait for the lock before.

    The kernel releases the lock when the process ends, however it ends.

    Args:
        path: The lock file, which is created together with its folder.
        wait: Called with a number of seconds if the file cannot be created. It sleeps that long and returns whether to
            give up; then the block runs without a lock.
    """
    fd = _open(path)
    while fd is None and not wait(RETRY_PAUSE):
        fd = _open(path)
    try:
        if fd is not None:
            # flock(), not fcntl(): a process may hold one such lock and wait in another thread for a second one, while
            # another process does the reverse. With fcntl() the kernel takes that for a deadlock and raises EDEADLK.
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        if fd is not None:
            os.close(fd)


def _open(path: str) -> int | None:
    try:
        files.make_spool_directory(os.path.dirname(path))
        return files.open_or_create(path)
    except OSError as error:
        text = "process %d cannot create the lock file %s; its background thread waits, and tries again every %g s: %s"
        log.complain(text, os.getpid(), path, RETRY_PAUSE, error)
        return None
