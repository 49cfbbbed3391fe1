"""Which process does a pid mean, is it alive, and which values belong to this process alone?"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

_PF_EXITING = 0x4
"""The flag of a process in its exit, in ``include/linux/sched.h`` of the kernel."""


class _ThisProcess:
    #: Its pid, in a process that only Python forks; 0 in any other.
    pid = 0


_this_process = _ThisProcess()


def remember_pid() -> None:
    """Find the values of :class:`PerProcess` without asking the kernel for the pid, as ten times per job.

    Only for a spooler, which nobody forks but Python; the child then forgets the pid. uWSGI forks its master without
    telling Python.
    """
    _this_process.pid = os.getpid()


def pid() -> int:
    """Return the pid of this process; a spooler does not ask the kernel for it."""
    return _this_process.pid or os.getpid()


def _forget_pid() -> None:
    _this_process.pid = 0


os.register_at_fork(after_in_child=_forget_pid)


class PerProcess(Generic[T]):
    """A value that belongs to one process: a forked child does not see its parent's value and makes its own.

    The value is found by pid and not reset by a hook after the fork, because uWSGI forks without telling Python.
    A parent's value stays referenced in the child: closing a database connection there, for example, would release
    the locks of the parent. But it is no longer found by pid once the child has a value: a descendant may get the pid
    of an ancestor that is dead.

    Args:
        make: Makes the value at its first use in a process. If two threads race for it, both may call ``make()``, and
            both get the same one of the two values. ``None``: :meth:`get` says how to make it.
    """

    def __init__(self, make: Callable[[], T] | None = None) -> None:
        self._make = make
        self._by_pid: dict[int, T] = {}
        self._inherited: list[T | None] = []

    def get(self, make: Callable[[], T] | None = None) -> T:
        """Return the value of this process; make it first if there is none.

        Args:
            make: Used instead of the function that was given to the constructor, where the value depends on the caller.

        Raises:
            LookupError: There is no value, and no function to make it. Also raises what that function raises.
        """
        pid = _this_process.pid or os.getpid()
        try:
            return self._by_pid[pid]
        except KeyError:
            pass
        if (make := make or self._make) is None:
            raise LookupError("this process has no value yet")
        value = make()
        self._set_inherited_aside(pid)
        return self._by_pid.setdefault(pid, value)

    def peek(self) -> T | None:
        """Return the value of this process, or ``None`` if there is none yet."""
        return self._by_pid.get(_this_process.pid or os.getpid())

    def set(self, value: T) -> None:
        """Replace the value of this process."""
        pid = _this_process.pid or os.getpid()
        self._set_inherited_aside(pid)
        self._by_pid[pid] = value

    def discard(self) -> None:
        """Forget the value of this process: the next :meth:`get` makes another one."""
        self._by_pid.pop(_this_process.pid or os.getpid(), None)

    def _set_inherited_aside(self, pid: int) -> None:
        for other in self._by_pid.keys() - {pid}:
            self._inherited.append(self._by_pid.pop(other, None))  # None: another thread was faster


def identity(pid: int) -> bytes:
    """Return the start time and the boot of the process ``pid``; if it is dead, a value that no process has.

    Together with the pid this identifies a process: a later one may get the same pid, but not the same start time.
    """
    fields = _fields(pid)
    if len(fields) < 20 or fields[0] in b"ZX":
        # No such process, a zombie, or no /proc: then no process is signalled.
        return b"unknown %d" % os.getpid()
    return b" %s %s\n" % (fields[19], _boot())


def is_exiting(pid: int) -> bool:
    """Whether the process ``pid`` is dead, or executes nothing but its exit in the kernel."""
    fields = _fields(pid)
    return len(fields) < 20 or fields[0] in b"ZX" or bool(int(fields[6]) & _PF_EXITING)


def is_stopped(pid: int) -> bool:
    """Whether the process ``pid`` was stopped, by SIGSTOP or a debugger, and does nothing until it is continued."""
    try:
        fields = _fields(pid)
    except OSError:
        return False  # as in is_alive()
    return bool(fields) and fields[0] in b"Tt"


def parent(pid: int) -> int | None:
    """Return the pid of the parent of the process ``pid``; ``None`` if there is no such process."""
    fields = _fields(pid)
    return int(fields[1]) if len(fields) > 1 else None


def _fields(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the command's name and may itself hold spaces and parentheses.
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def started(pid: int) -> int | None:
    """Return when the process ``pid`` started, in clock ticks since the boot; ``None`` if it is dead."""
    words = identity(pid).split()
    return int(words[0]) if words[0].isdigit() else None


def age(pid: int) -> float | None:
    """Return how many seconds ago the process ``pid`` started; ``None`` if it is dead."""
    if (ticks := started(pid)) is None:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int, known: bytes) -> bool:
    """Whether the process ``pid`` still is the one whose :func:`identity` was ``known``."""
    if pid == os.getpid():
        return known == own()
    try:
        return known == identity(pid)
    except OSError:
        # Out of descriptors, for example: a process that cannot read /proc must not declare another one dead.
        return True


def wait_until_gone(
    remaining: Callable[[], list[int]], deadline: float, give_up: Callable[[], bool] = lambda: False
) -> list[int]:
    """Poll until ``remaining()`` returns no pid any more.

    Args:
        remaining: Returns the pids that are waited for.
        deadline: When to stop waiting, in seconds as ``time.monotonic()`` counts them.
        give_up: Returns whether to stop waiting before the deadline.

    Returns:
        The pids that are left; empty if all are gone.
    """
    while (left := remaining()) and time.monotonic() < deadline and not give_up():
        time.sleep(0.05)
    return left


def resident_size() -> int:
    """Return the bytes of physical memory that this process takes. Raises ``OSError``."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_SIZE


def data_size() -> int:
    """Return the bytes of private memory that this process may write: ``RLIMIT_DATA`` bounds it. Raises ``OSError``."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) * 1024
    return 0


_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


def file_of(fd: int) -> tuple[int, int] | None:
    """Return the device and the inode of the file behind the descriptor; ``None`` if the descriptor is closed."""
    try:
        about = os.fstat(fd)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def keep_open(fd: int) -> int:
    """Return a duplicate of the descriptor for long use. Raises ``OSError``.

    uWSGI opens ``/dev/null`` as descriptor 0 of a spooler after the fork, and closes what is there.
    """
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)


class KeptDescriptor:
    """A descriptor that this process keeps, and that a task may close: then another file may get its number.

    The descriptor is recognised by its offset, which costs a quarter of ``fstat``. Nothing else moves it: SQLite reads
    and writes at offsets that it names. If it was built not to, ``fstat`` decides.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._file = file_of(fd)
        # Another one for each: a task may also copy one descriptor of this process over another.
        self._offset = next(_offsets)
        with contextlib.suppress(OSError):  # the file system knows no file of this size: fstat decides each time
            os.lseek(fd, self._offset, os.SEEK_SET)

    def is_intact(self) -> bool:
        """Whether the descriptor still is that of the same file."""
        try:
            return os.lseek(self._fd, 0, os.SEEK_CUR) == self._offset or file_of(self._fd) == self._file
        except OSError:
            return False  # it is closed, or that of a pipe


_offsets = count(0x59_0000_0000)  # below the greatest size of a file, and above where programs read and write


class Target:
    """A process that is signalled: never a later one with the same pid.

    Args:
        pid: The pid.
        known: The :func:`identity` of the process.
        keep: Whether to check the process only once, and to keep a descriptor of it for the signals that follow.

    Raises:
        ProcessLookupError: The process is dead.
        OSError: It cannot be determined which process that is.
    """

    def __init__(self, pid: int, known: bytes, *, keep: bool) -> None:
        self.pid = pid
        self._known = known
        self._fd: int | None = None
        self._file: tuple[int, int] | None = None
        if keep and (fd := _open_process(pid)) is not None:
            try:
                # In this order: the descriptor is that of a process that had this pid before it was checked.
                self._check()
                self._fd = keep_open(fd)
                self._file = file_of(self._fd)
            finally:
                os.close(fd)

    def signal(self, signum: int) -> None:
        """Send a signal. Raises ``ProcessLookupError`` if the process is dead, and other ``OSError``."""
        # A task may have closed the descriptor, and its number may be that of another process by now.
        if self._fd is not None and file_of(self._fd) == self._file:
            signal.pidfd_send_signal(self._fd, signum)
            return
        fd = _open_process(self.pid)
        try:
            self._check()
            if fd is None:
                os.kill(self.pid, signum)
            else:
                signal.pidfd_send_signal(fd, signum)
        finally:
            if fd is not None:
                os.close(fd)

    def close(self) -> None:
        """Close the descriptor, if there is one."""
        if self._fd is not None and file_of(self._fd) == self._file:
            os.close(self._fd)
        self._fd = None

    def _check(self) -> None:
        if identity(self.pid) != self._known:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _open_process(pid: int) -> int | None:
    """Return a descriptor of the process; ``None`` where Python, the kernel or a filter of system calls has none."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return None
    try:
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, 0)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise
    return fd


def signal_thread(pid: int, thread: int, signum: int) -> None:
    """Send a signal to one thread of a process, as the kernel numbers it; the caller has checked the process.

    Raises ``ProcessLookupError`` if the process has no such thread, and other ``OSError``.
    """
    if _libc.tgkill(pid, thread, signum) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


_libc = ctypes.CDLL(None, use_errno=True)

_this = PerProcess(lambda: (os.getpid(), identity(os.getpid())))


def this() -> tuple[int, bytes]:
    """Return the pid and the :func:`identity` of this process."""
    return _this.get()


def own() -> bytes:
    """Return the :func:`identity` of this process."""
    return _this.get()[1]


@lru_cache(maxsize=1)
def _boot() -> bytes:
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b"-"
