"""Locks that belong to one opening of a file, and so to one caller: to a thread, and not to its process.

The locks of ``fcntl.lockf()`` belong to the process: its threads do not exclude each other, and whoever closes any
descriptor of the file releases them all. These here end when their own descriptor is closed, and not before. They
exclude those of ``lockf()`` as well, as uWSGI's are.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import struct
import weakref

_FLOCK = "hhqqi4x"
"""The fields of ``struct flock``: type, whence, start, length, pid. The kernel wants the pid to be 0 here."""


class LockedFile(io.FileIO):
    """An open file that may be locked. To close it releases its lock, as does the end of the process.

    It is closed in C, at the end of a ``with`` block as well: there is no moment at which a signal handler, or the time
    limit of a task, could raise and leave the lock behind. So nothing here overrides ``__exit__()`` or ``close()``.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        # Not in a WeakSet: the time limit of a task that strikes in the Python code of its callback is swallowed there.
        _open[fd] = weakref.ref(self)


_open: dict[int, weakref.ref[LockedFile]] = {}
"""The files that may be open, by their descriptors."""


def _close_in_child() -> None:
    # A child has the same opening of the file: as long as it had that open, its parent's death would release nothing.
    for reference in _open.values():
        if (file := reference()) is not None:
            with contextlib.suppress(OSError):
                file.close()


os.register_at_fork(after_in_child=_close_in_child)


def try_lock(fd: int, start: int = 0, length: int = 0) -> bool:
    """Lock bytes of an open file, which may be beyond its end. Raises ``OSError``.

    Args:
        fd: The descriptor, open for writing.
        start: The first byte.
        length: How many bytes; 0: all from ``start`` on.

    Returns:
        Whether no other opening of the file has one of them locked.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, start, length))
    except (BlockingIOError, PermissionError):
        return False
    return True


def lock(fd: int) -> None:
    """Lock all of an open file; wait for as long as another opening of it has it locked. Raises ``OSError``.

    An exception that a signal handler raises ends the wait, as the time limit of a task does.
    """
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK, 0, 0))


def unlock(fd: int, start: int, length: int) -> None:
    """Release the lock on bytes of an open file, if it has one. Raises ``OSError``."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, start, length))


def is_locked(fd: int, start: int, length: int) -> bool:
    """Return whether another opening of the file has one of the bytes locked. Raises ``OSError``."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, start, length))
    return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)


def _flock(kind: int, start: int, length: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)


def holders(path: str, start: int = 0, length: int = 0) -> list[int]:
    """Return the pids of the processes that hold such a lock on one of these bytes; only those that this user may see.

    It looks through the descriptors of all processes: for an error message only. Never raises ``OSError``.
    """
    # The kernel names the holder of a lock of lockf(), but not of these.
    found: list[int] = []
    with contextlib.suppress(OSError):
        about = os.stat(path)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        if os.path.samestat(os.stat(f"/proc/{pid}/fd/{fd}"), about) and _holds(
                            f"/proc/{pid}/fdinfo/{fd}", start, length
                        ):
                            found.append(int(pid))
                            break
    return sorted(found)


def _holds(info: str, start: int, length: int) -> bool:
    with open(info, encoding="ascii", errors="replace") as file:
        for line in file:
            # lock:  1: OFDLCK ADVISORY WRITE -1 08:01:1234 5 EOF
            words = line.split()
            if words[:1] == ["lock:"] and len(words) >= 9 and words[2] == "OFDLCK":
                first, last = words[-2:]
                ends_before = last != "EOF" and int(last) < start
                if not ends_before and (not length or int(first) < start + length):
                    return True
    return False
