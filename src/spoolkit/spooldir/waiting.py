"""Waiting for the end of a job without asking again and again: a named pipe, ``waiting/<id>``.

Who waits opens it to read; who settles the job opens it to write and closes it again, which ends every reader's wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator

from spoolkit.system import files

FOLDER = "waiting"

LOOK_AGAIN = 2.0
"""Seconds after which a waiter looks by itself: whoever was to call may have been killed before it could."""


def wait(finished: Callable[[], bool], folder: str, id: str, timeout: float | None) -> bool:
    """Wait until ``finished()``, at most ``timeout`` seconds (``None``: for ever); whether it is so."""
    deadline = None if timeout is None else time.monotonic() + min(timeout, 1e9)  # of any size: it may be no float
    while not finished():
        with _pipe(folder, id) as fd:
            # Asked with the pipe open: who settles the job after this has somebody to call.
            if finished():
                break
            left = LOOK_AGAIN if deadline is None else min(LOOK_AGAIN, deadline - time.monotonic())
            if left <= 0:
                return False
            _sleep(fd, left)
    wake_waiters(folder, id)  # the pipe may have been made after whoever settled the job was through
    return True


def wake_waiters(folder: str, id: str) -> None:
    """Tell whoever waits for the job ``id`` to look."""
    path, fd = os.path.join(folder, FOLDER, id), None
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError:
        pass  # nobody has it open yet: who opens it now looks at the job before he waits
    # Removed before it is closed, which wakes them: whoever waits on would open this one again, and lose it.
    files.remove(path)
    if fd is not None:
        os.close(fd)


@contextlib.contextmanager
def _pipe(folder: str, id: str) -> Iterator[int | None]:
    path = os.path.join(folder, FOLDER, id)
    fd = None
    with contextlib.suppress(OSError):
        files.make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        files.give(fd, os.path.dirname(path))
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _sleep(fd: int | None, seconds: float) -> None:
    if fd is None:  # no room for a pipe
        time.sleep(min(seconds, 0.1))
        return
    poll = select.poll()
    # Nothing is ever written: the end of the last writer is the call.
    poll.register(fd, select.POLLHUP)
    poll.poll(seconds * 1000)
