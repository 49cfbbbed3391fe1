"""Which process a pid means: its start time and the boot tell it from a later one of the same number."""

from __future__ import annotations

import os
from functools import lru_cache

_PF_EXITING = 0x4
"""The flag of a process in its exit, in ``include/linux/sched.h`` of the kernel."""


def identity(pid: int) -> bytes:
    """The start time of the process ``pid``, and the boot it belongs to; of a dead one what fits no other."""
    fields = _fields(pid)
    if len(fields) < 20 or fields[0] in b"ZX":
        # No such process, one that is dead but not yet buried, or no /proc: then nobody is signalled.
        return b"unknown %d" % os.getpid()
    return b" %s %s\n" % (fields[19], _boot())


def is_exiting(pid: int) -> bool:
    """Whether the process ``pid`` is dead, or executes nothing any more but its exit in the kernel."""
    fields = _fields(pid)
    return len(fields) < 20 or fields[0] in b"ZX" or bool(int(fields[6]) & _PF_EXITING)


def _fields(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the command's name and may itself hold spaces and parentheses.
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def started(pid: int) -> int | None:
    """When the process ``pid`` started, in ticks since the boot; ``None`` where it is dead."""
    words = identity(pid).split()
    return int(words[0]) if words[0].isdigit() else None


def is_alive(pid: int, known: bytes) -> bool:
    """Whether the process ``pid`` still is the one whose :func:`identity` was ``known``."""
    if pid == os.getpid():
        return known == _own(pid)
    try:
        return known == identity(pid)
    except OSError:
        return True  # out of descriptors, say: who cannot look must not declare anybody dead


def file_of(fd: int) -> tuple[int, int] | None:
    """Which file the descriptor means: device and inode; ``None`` where it means none."""
    try:
        about = os.fstat(fd)
    except OSError:
        return None
    return about.st_dev, about.st_ino


@lru_cache(maxsize=1)
def _own(pid: int) -> bytes:
    return identity(pid)


def own() -> bytes:
    """This process's :func:`identity`."""
    return _own(os.getpid())


@lru_cache(maxsize=1)
def _boot() -> bytes:
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b"-"
