"""Which spooler processes serve a directory, and which of them to wake for a new job.

Each spooler keeps a small file, ``DIRECTORY/spoolers/<pid>``: two flag bytes (busy, woken) and its identity. So whoever
enqueues, within uWSGI or not, wakes one idle spooler instead of all, and also a busy one, which uWSGI itself never
does: a job enqueued while every spooler is busy would wait for ``spooler-frequency`` after they are free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
from collections.abc import Iterable, Iterator

from spoolkit.system import clock, files, process

FOLDER = files.SPOOLERS

GENERATION = "generation"

BROKEN = "broken"

_STOP_MARK = "stopped."

COMPLAINT_PAUSE = 60
"""Seconds between two log lines about an application that spoolers cannot load."""

FRESH = 15.0
"""Seconds for which spoolers are taken to be trying still."""

_BUSY, _WOKEN = 0, 1
_HEAD = 2


class Presence:
    """This process, as a spooler of ``directory``. Make it only once SIGUSR1 is handled: by default it kills."""

    def __init__(self, directory: str) -> None:
        folder = os.path.join(directory, FOLDER)
        files.make_folder(folder)
        self.pid = os.getpid()
        self._path = os.path.join(folder, str(self.pid))
        temporary = f"{self._path}.new"
        files.remove(temporary)  # of a process of the same number
        fd = files.create(temporary)
        try:
            os.write(fd, b"00" + process.own())
            os.rename(temporary, self._path)
            # uWSGI puts /dev/null over descriptor 0 after the fork, which may be the one that open() just gave.
            self._fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
            self._file = process.file_of(self._fd)
        finally:
            os.close(fd)

    @property
    def is_lost(self) -> bool:
        """Whether a task has closed the file, and its descriptor may be another file's."""
        return process.file_of(self._fd) != self._file

    def busy(self) -> None:
        """A job starts here; who enqueues from now on may ask for another look at the directory."""
        self._flag(b"10")

    def idle(self) -> None:
        """The job is over."""
        self._flag(b"00")

    def _flag(self, flags: bytes) -> None:
        # A full disk, or a task that closed what is not its own, costs promptness; it must not cost the job.
        with contextlib.suppress(OSError):
            if not self.is_lost:
                os.pwrite(self._fd, flags, 0)

    def leave(self) -> None:
        """This process serves the directory no more."""
        files.remove(self._path)
        with contextlib.suppress(OSError):
            if not self.is_lost:
                os.close(self._fd)


def busy(directories: Iterable[str], pids: Iterable[int] | None = None) -> list[int]:
    """The spoolers of these spool directories that are running a job, in order; only those of ``pids``, if given."""
    present = (one for directory in directories for one in _present(directory))
    found = {pid for pid, flags in present if flags[_BUSY : _BUSY + 1] == b"1"}
    return sorted(found if pids is None else found.intersection(pids))


def pids(directory: str) -> list[int]:
    """The pids of the living spoolers of ``directory``, in order. Never raises."""
    return sorted(pid for pid, _ in _present(directory))


def _present(directory: str) -> Iterator[tuple[int, bytes]]:
    """The living spoolers of ``directory``, each with its flags."""
    folder = os.path.join(directory, FOLDER)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if not (name.isascii() and name.isdigit()):
                continue
            with contextlib.suppress(OSError):
                fd = files.open_regular(os.path.join(folder, name))
                try:
                    data = os.read(fd, 256)
                finally:
                    os.close(fd)
                if process.is_alive(int(name), data[_HEAD:]):
                    yield int(name), data[:_HEAD]


def publish_generation(directory: str, pid: int) -> None:
    """Publish that spoolers which started before the process ``pid`` run older code. Never raises."""
    with contextlib.suppress(OSError):
        files.write(os.path.join(directory, FOLDER, GENERATION), process.identity(pid))


def outdated_pids(directory: str) -> list[int]:
    """The living spoolers of ``directory`` that started before its uWSGI was reloaded, in order. Never raises."""
    try:
        since, boot = (files.read(os.path.join(directory, FOLDER, GENERATION)) or b"").split()
    except (OSError, ValueError):
        return []
    older = []
    for pid in pids(directory):
        words = process.identity(pid).split()
        if words[1] == boot and words[0].isdigit() and int(words[0]) < int(since):
            older.append(pid)
    return older


def publish_load_error(directory: str, text: str) -> bool:
    """Publish why a spooler could not load its application; whether that must be logged again. Never raises."""
    path = os.path.join(directory, FOLDER, BROKEN)
    try:
        files.make_folder(os.path.dirname(path))
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            logged = file.readline()
            now = clock.now()
            due = not logged.strip().isdigit() or not 0 <= now - int(logged) < COMPLAINT_PAUSE
            file.seek(0)
            file.truncate()
            file.write(b"%d\n%s" % (now if due else int(logged), text.encode("utf-8", "backslashreplace")[:1000]))
            return due
    except OSError:
        return True


def clear_load_error(directory: str) -> None:
    """Take that back. Never raises."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, FOLDER, BROKEN))


def load_error(directory: str) -> str | None:
    """Why spoolers of ``directory`` cannot load their application, if they have just tried. Never raises."""
    try:
        fd = os.open(os.path.join(directory, FOLDER, BROKEN), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            # Each try writes it again: uWSGI starts a spooler every second or so.
            if not abs(clock.now() - os.fstat(fd).st_mtime) < FRESH:
                return None
            return file.read(2000).partition(b"\n")[2].decode("utf-8", "replace") or None
    except OSError:
        return None


def wake_all(directory: str) -> None:
    """Have every spooler of ``directory`` look at once. Never raises."""
    for pid, _ in _present(directory):
        _signal(pid)


def wake(directory: str) -> int | None:
    """Have a new job looked at: signal one idle spooler, or, where all are busy, each of them once.

    Returns the pid of the idle one, if any. Never raises: the job is accepted already, and
    uWSGI looks by itself every ``spooler-frequency``.
    """
    idle: list[int] = []
    busy: list[tuple[int, int]] = []
    folder = os.path.join(directory, FOLDER)
    try:
        names = [name for name in os.listdir(folder) if name.isascii() and name.isdigit()]
    except OSError:
        return None
    with contextlib.ExitStack() as opened:
        for name in names:
            path, pid = os.path.join(folder, name), int(name)
            try:
                fd = files.open_regular(path, os.O_RDWR)
                opened.callback(os.close, fd)
                data = os.pread(fd, 256, 0)
                identity = process.identity(pid)
            except OSError:
                continue
            if data[_HEAD:] != identity:
                # Dead, and its pid may be another process by now, which SIGUSR1 would kill.
                files.remove(path)
            elif data[_BUSY : _BUSY + 1] == b"0":
                idle.append(pid)
            elif data[_WOKEN : _WOKEN + 1] == b"0":
                busy.append((pid, fd))
        # At random: in a burst, everybody picking the first would leave the others asleep.
        random.shuffle(idle)
        for pid in idle:
            if _signal(pid):
                return pid
        for pid, fd in busy:
            # Once per job: each further signal would cost one more scan of the directory afterwards.
            with contextlib.suppress(OSError):
                os.pwrite(fd, b"1", _WOKEN)
            _signal(pid)
    return None


def _signal(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGUSR1)
    except OSError:
        return False
    return True


# Marks of processes that a stop of the server kills while the store cannot be written: so the next claim of their job
# does not take the kill for a crash of the task.


def mark_stopped(spool_dir: str, pid: int, identity: bytes | None = None) -> None:
    """Leave a mark that a stop of the server kills the process ``pid``. To be called before it is killed.

    Nothing happens if the process is dead, unless its identity is known: then another process that stops it was faster,
    and the mark of that one must stay as it is.

    Args:
        spool_dir: The spool directory in which the mark is left.
        pid: The process.
        identity: Its :func:`~spoolkit.system.process.identity`, if that was read while it was alive.

    Raises:
        OSError: The mark cannot be written.
    """
    identity = process.identity(pid) if identity is None else identity
    if identity.split()[0].isdigit():
        files.make_folder(os.path.join(spool_dir, FOLDER))
        files.write(_stop_mark(spool_dir, pid), identity)


def was_stopped(spool_dir: str, pid: int, identity: bytes) -> bool:
    """Return whether a stop of the server has killed the process, by its :func:`mark_stopped`."""
    try:
        return files.read(_stop_mark(spool_dir, pid)) == identity
    except OSError:
        return False


def unmark_stopped(spool_dir: str, pid: int) -> None:
    """Remove the mark of the process: the store has its interrupted job by now, or the process was not stopped."""
    files.remove(_stop_mark(spool_dir, pid))


def marked_stopped(spool_dir: str) -> list[int]:
    """Return the pids of all processes that have a mark."""
    try:
        names = os.listdir(os.path.join(spool_dir, FOLDER))
    except OSError:
        return []
    numbers = (name.removeprefix(_STOP_MARK) for name in names if name.startswith(_STOP_MARK))
    return [int(pid) for pid in numbers if pid.isascii() and pid.isdigit()]


def _stop_mark(spool_dir: str, pid: int) -> str:
    return os.path.join(spool_dir, FOLDER, f"{_STOP_MARK}{pid}")
