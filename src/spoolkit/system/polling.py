"""Which of some descriptors can be read?"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterable


def readable(fds: Iterable[int], seconds: float) -> list[int]:
    """Wait until a descriptor can be read, or nobody can write to it any more. Their numbers may be of any size.

    Args:
        fds: The descriptors.
        seconds: How long to wait at most.

    Returns:
        Those that are ready; empty if the time has passed.

    Raises:
        OSError: One of them is closed.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    found = poll.poll(seconds * 1000)
    if any(event & select.POLLNVAL for _, event in found):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return [fd for fd, _ in found]
