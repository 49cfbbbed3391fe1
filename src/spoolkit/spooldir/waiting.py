"""How does a process wait for the end of a job without polling? By a named pipe, ``waiting/<id>``.

A waiting process opens the pipe for reading. The process that settles the job opens it for writing and closes it again,
which wakes every reader.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator

from spoolkit.system import files

FOLDER = "waiting"

POLL_INTERVAL = 2.0
"""Seconds after which a waiting process checks by itself: the one that should wake it may have been killed before."""


def wait(finished: Callable[[], bool], spool_dir: str, id: str, timeout: float | None) -> bool:
    """Wait until a job is finished.

    Args:
        finished: Returns whether it is.
        spool_dir: The spool directory that holds the pipe.
        id: The id of the job.
        timeout: Seconds to wait at most; ``None``: without a limit.

    Returns:
        Whether the job is finished.
    """
    deadline = None if timeout is None else time.monotonic() + min(timeout, 1e9)  # an int may be too large for a float
    while not finished():
        with _pipe(spool_dir, id) as fd:
            # Asked with the pipe open: a process that settles the job after this finds a reader to wake.
            if finished():
                break
            left = POLL_INTERVAL if deadline is None else min(POLL_INTERVAL, deadline - time.monotonic())
            if left <= 0:
                return False
            _sleep(fd, left)
    wake_waiters(spool_dir, id)  # the pipe may have been made after the job was settled
    return True


def wake_waiters(spool_dir: str, id: str) -> None:
    """Wake all processes that wait for the job ``id``: they check whether it is finished. Never raises ``OSError``."""
    path, fd = f"{spool_dir}/{FOLDER}/{id}", None
    # Almost always there is none, and to ask is cheaper than to fail. A process that makes the pipe after this checks
    # the job before it waits.
    if not os.access(path, os.F_OK):
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError:
        pass  # no reader yet: a process that opens the pipe now checks the job before it waits
    # Removed before it is closed, which wakes the readers: one that continues to wait would open this pipe again.
    files.remove(path)
    if fd is not None:
        os.close(fd)


@contextlib.contextmanager
def _pipe(spool_dir: str, id: str) -> Iterator[int | None]:
    path = os.path.join(spool_dir, FOLDER, id)
    fd = None
    with contextlib.suppress(OSError):
        files.make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        files.give(fd, path)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _sleep(fd: int | None, seconds: float) -> None:
    if fd is None:  # the pipe could not be made or opened
        time.sleep(min(seconds, 0.1))
        return
    poll = select.poll()
    # Nothing is ever written: readers wake when the last writer closes the pipe.
    poll.register(fd, select.POLLHUP)
    poll.poll(seconds * 1000)
