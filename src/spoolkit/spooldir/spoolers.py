"""Which spoolers serve a spool directory, and which of them must be woken for a new job?

Each spooler has a small file, ``spoolers/<pid>``, with the identity of its process, and a slot
(:mod:`~spoolkit.spooldir.slots`), which says whether it is busy. For a new job one idle spooler is woken, by its slot.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterable, Iterator

from spoolkit.spooldir import slots, spoolfile
from spoolkit.system import clock, files, process

FOLDER = files.SPOOLERS

GENERATION = "generation"
"""The file that says since when the HTTP processes run the present code."""

LOAD_ERROR = "broken"
"""The file that says why spoolers cannot load the application."""

START_ERROR = "hook"
"""The file that says which hook of their start keeps spoolers from running jobs."""

_STOP_MARK = "stopped."

LOG_INTERVAL = 60
"""Seconds between two log lines about the same application that spoolers cannot load."""

RECENT = 15.0
"""Seconds after a load error for which spoolers are taken to be trying again."""

_ID = slice(len(spoolfile.PREFIX), len(spoolfile.PREFIX) + 32)
"""Where the name of a job's file holds its id."""

MOST_LEFT = 1000
"""How many names of files that stay where they are a spooler remembers."""

_BUSY, _IDLE = b"10", b"00"
"""The flags of a spooler that runs a job although it could not say so in its slot, and of all others."""

_FLAGS = 2
"""How many bytes of flags precede the identity."""


class SpoolerFile:
    """The file of this process as a spooler.

    Make it only once SIGUSR1 is handled: from then on, other processes send it, and by default it kills.

    Args:
        spool_dir: The spool directory.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, spool_dir: str) -> None:
        folder = os.path.join(spool_dir, FOLDER)
        files.make_folder(folder)
        _remove_dead(folder)
        self.pid = os.getpid()
        self._spool_dir = spool_dir
        self._path = os.path.join(folder, str(self.pid))
        temporary = f"{self._path}.new"
        files.remove(temporary)  # left by a killed process with the same pid
        fd = files.create(temporary)
        try:
            os.write(fd, _IDLE + process.own())
            os.rename(temporary, self._path)
            self._fd = process.keep_open(fd)
            self._file = process.file_of(self._fd)
        finally:
            os.close(fd)
        self._slot = slots.Slot(spool_dir)
        self._left: set[str] = set()
        self._flagged = False

    @property
    def is_lost(self) -> bool:
        """Whether a task has closed this file, so that its descriptor may mean another file."""
        return process.file_of(self._fd) != self._file

    def busy(self, name: str = "") -> None:
        """Say that this process runs a job.

        Args:
            name: The name of the job's file.
        """
        try:
            relied_on = self._slot.start(name[_ID])
        except OSError as error:
            self._flag(_BUSY)
            relied_on = isinstance(error, TimeoutError)
        # A file that stays where it is must not set off a chain of spoolers that wake each other for ever.
        if relied_on and name not in self._left:
            wake(self._spool_dir)

    def idle(self, *, left: str | None = None) -> None:
        """Say that this process runs no job, and have it scan the directory again if a job was enqueued meanwhile.

        Args:
            left: The name of the file that it has just looked at and may have left in the directory.
        """
        if self._flagged:
            self._flag(_IDLE)
        if left is not None:
            if len(self._left) == MOST_LEFT:
                self._left.clear()
            self._left.add(left)
        try:
            again = self._slot.end()
        except OSError as error:
            again = isinstance(error, TimeoutError)
        if again:
            os.kill(os.getpid(), signal.SIGUSR1)

    def _flag(self, flags: bytes) -> None:
        self._flagged = flags == _BUSY
        # If the disk is full or a task has closed the file, jobs may start later. The present one must not fail for it.
        with contextlib.suppress(OSError):
            if not self.is_lost:
                os.pwrite(self._fd, flags, 0)

    def leave(self) -> None:
        """Remove the file: this process no longer serves the directory. Never raises ``OSError``."""
        self._slot.leave()
        files.remove(self._path)
        with contextlib.suppress(OSError):
            if not self.is_lost:
                os.close(self._fd)


def busy(spool_dirs: Iterable[str], pids: Iterable[int] | None = None) -> list[int]:
    """Return the pids of the living spoolers that are running a job, in order. Never raises ``OSError``.

    Args:
        spool_dirs: The spool directories that they serve.
        pids: Only spoolers with these pids; ``None``: all.
    """
    found: set[int] = set()
    for spool_dir in spool_dirs:
        # Callers of an older version, and its spoolers, use the second flag as well.
        found.update(pid for pid, flags in _present(spool_dir) if flags[:1] == _BUSY[:1])
        with contextlib.suppress(OSError):
            found.update(slots.running(spool_dir))
    return sorted(found if pids is None else found.intersection(pids))


def pids(spool_dir: str) -> list[int]:
    """Return the pids of the living spoolers of ``spool_dir``, in order. Never raises ``OSError``."""
    return sorted(pid for pid, _ in _present(spool_dir))


def _present(spool_dir: str) -> Iterator[tuple[int, bytes]]:
    """Yield the pid and the flags of each living spooler."""
    folder = os.path.join(spool_dir, FOLDER)
    for name in _pid_names(folder):
        with contextlib.suppress(OSError):
            data = files.read(os.path.join(folder, name)) or b""
            if data and process.is_alive(int(name), data[_FLAGS:]):
                yield int(name), data[:_FLAGS]


def _remove_dead(folder: str) -> None:
    """Remove the files of dead spoolers."""
    for name in _pid_names(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            data = files.read(path)
            if data is not None and not process.is_alive(int(name), data[_FLAGS:]):
                files.remove(path)


def _pid_names(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.isascii() and name.isdigit()]
    except OSError:
        return []


def publish_generation(spool_dir: str, pid: int) -> None:
    """Say that spoolers that started before the process ``pid`` run older code. Never raises ``OSError``."""
    with contextlib.suppress(OSError):
        files.write(os.path.join(spool_dir, FOLDER, GENERATION), process.identity(pid))


def generation_time(spool_dir: str) -> float | None:
    """Return when the HTTP processes began to run the present code, in unix seconds; ``None`` if none has said so."""
    try:
        return os.stat(os.path.join(spool_dir, FOLDER, GENERATION), follow_symlinks=False).st_mtime
    except OSError:
        return None


def outdated_pids(spool_dir: str) -> list[int]:
    """Return the pids of the living spoolers that run code from before the last reload, in order. Never raises."""
    try:
        since, boot = (files.read(os.path.join(spool_dir, FOLDER, GENERATION)) or b"").split()
    except (OSError, ValueError):
        return []
    older = []
    for pid in pids(spool_dir):
        words = process.identity(pid).split()
        if words[1] == boot and words[0].isdigit() and int(words[0]) < int(since):
            older.append(pid)
    return older


def publish_load_error(spool_dir: str, text: str) -> bool:
    """Say why a spooler could not load the application.

    Args:
        spool_dir: The spool directory.
        text: The reason.

    Returns:
        Whether the caller must log it: not if one of the spoolers has done so within :data:`LOG_INTERVAL`.
    """
    path = os.path.join(spool_dir, FOLDER, LOAD_ERROR)
    try:
        files.make_folder(os.path.dirname(path))
        with open(files.open_or_create(path), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            logged = file.readline()
            now = clock.now()
            due = not logged.strip().isdigit() or not 0 <= now - int(logged) < LOG_INTERVAL
            file.seek(0)
            file.truncate()
            file.write(b"%d\n%s" % (now if due else int(logged), text.encode("utf-8", "backslashreplace")[:1000]))
            return due
    except OSError:
        return True


def clear_load_error(spool_dir: str) -> None:
    """Remove what :func:`publish_load_error` wrote. Never raises ``OSError``."""
    files.remove(os.path.join(spool_dir, FOLDER, LOAD_ERROR))


def load_error(spool_dir: str) -> str | None:
    """Return why spoolers cannot load the application; ``None`` if none has failed recently. Never raises."""
    try:
        with open(files.open_regular(os.path.join(spool_dir, FOLDER, LOAD_ERROR)), "rb") as file:
            # Each attempt writes the file again: uWSGI starts a spooler every second or so.
            if not abs(clock.now() - os.fstat(file.fileno()).st_mtime) < RECENT:
                return None
            return file.read(2000).partition(b"\n")[2].decode("utf-8", "replace") or None
    except OSError:
        return None


def publish_start_error(spool_dir: str, text: str, next_try: float) -> None:
    """Write down for people that a spooler runs no job yet, because of a hook of its start. Never raises ``OSError``.

    Args:
        spool_dir: The spool directory.
        text: What is wrong.
        next_try: When the hook is tried again, in unix seconds (UTC).
    """
    content = b"%d\n%s" % (next_try, text.encode("utf-8", "backslashreplace")[:1000])
    path = os.path.join(spool_dir, FOLDER, START_ERROR)
    with contextlib.suppress(OSError):
        files.make_folder(os.path.dirname(path))
        files.write(path, content)


def clear_start_error(spool_dir: str) -> None:
    """Remove what :func:`publish_start_error` wrote. Never raises ``OSError``."""
    files.remove(os.path.join(spool_dir, FOLDER, START_ERROR))


def start_error(spool_dir: str) -> str | None:
    """Return which hook of their start keeps spoolers from running jobs; ``None`` if none does. Never raises."""
    try:
        next_try, _, text = (files.read(os.path.join(spool_dir, FOLDER, START_ERROR)) or b"").partition(b"\n")
    except OSError:
        return None
    if not next_try.isdigit() or clock.now() > int(next_try) + RECENT:
        return None  # the next try has succeeded, or no job waits for it
    return text.decode("utf-8", "replace")


def wake_all(spool_dir: str) -> None:
    """Have all spoolers of ``spool_dir`` scan it now. Never raises ``OSError``."""
    for pid, _ in _present(spool_dir):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)


def wake(spool_dir: str, id: str | None = None) -> int | None:
    """Have a new job found: wake one idle spooler, or, if all are busy, have each scan the directory after its job.

    Never raises ``OSError``: the job is accepted already, and uWSGI scans every ``spooler-frequency`` seconds anyway.

    Args:
        spool_dir: The spool directory.
        id: The id of the job; ``None``: unknown, which may wake one spooler more.

    Returns:
        The pid of the idle spooler; ``None`` if there is none.
    """
    try:
        return slots.call(spool_dir, id)
    except (OSError, LookupError):
        # There are no spoolers, or only some of an older version, or the slots cannot be used at present.
        wake_all(spool_dir)
        return None


# Marks of processes that a stop of the server kills while the store cannot be written: so the next claim of their job
# does not take the kill for a crash of the task.


def mark_stopped(spool_dir: str, pid: int) -> None:
    """Leave a mark that a stop of the server kills the process ``pid``. To be called before it is killed.

    Nothing happens if the process is dead: then another process that stops it was faster, and the mark of that one must
    stay as it is.

    Args:
        spool_dir: The spool directory in which the mark is left.
        pid: The process.

    Raises:
        OSError: The mark cannot be written.
    """
    identity = process.identity(pid)
    if identity.split()[0].isdigit():
        files.make_folder(os.path.join(spool_dir, FOLDER))
        files.write(_stop_mark(spool_dir, pid), identity)


def was_stopped(spool_dir: str, pid: int, identity: bytes) -> bool:
    """Return whether a stop of the server has killed a process, by the mark that :func:`mark_stopped` left.

    Args:
        spool_dir: The spool directory in which the mark may be.
        pid: The process.
        identity: Its :func:`~spoolkit.system.process.identity`.
    """
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
