"""A lock among processes that goes with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from spoolkit.system import files, log

LOOK_AGAIN = 5.0
"""Seconds between two tries where the file cannot be made."""


@contextmanager
def only_one(path: str, wait: Callable[[float], bool]) -> Iterator[None]:
    """Within it, this is the only process of the machine that is within it for ``path``; before, wait for that.

    ``wait`` sleeps some seconds where the file cannot be made, and says whether to give up.
    """
    fd = _open(path)
    while fd is None and not wait(LOOK_AGAIN):
        fd = _open(path)
    try:
        if fd is not None:
            # Not a lock of fcntl(): the kernel takes two threads that wait for each other's processes for a deadlock.
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        if fd is not None:
            os.close(fd)


def _open(path: str) -> int | None:
    try:
        files.make_spool_directory(os.path.dirname(path))
        with suppress(FileExistsError):
            return files.create(path)
        return files.open_regular(path, os.O_RDWR)
    except OSError as error:
        log.complain("%s cannot be made, so that nobody can be the only one: %s", path, error)
        return None
