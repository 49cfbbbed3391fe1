"""What does a running attempt show, and was it asked to stop? Each process that runs jobs has a file in ``running/``.

The file, ``running/<pid>``, is mapped and used again for one job after the other; where several threads run jobs, each
has a file of its own, ``running/<pid>.<n>``. Its head holds the id of the job, its progress, and the id of the job that
was asked to stop; its log follows. It is in the page cache, not in the store, so that a task may report ten thousand
times a second. It outlives the process, so that the log of a crash can be read.

The version before made a file for each attempt, ``running/<job id>``. Such files are still read, and asked to stop.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

from spoolkit.job import Progress
from spoolkit.spooldir import stacks
from spoolkit.spooldir.checkpoints import Checkpoint
from spoolkit.system import cgroup, files, log, process
from spoolkit.system.process import PerProcess

FOLDER = "running"
LOG_LIMIT = 64 * 1024
"""How many bytes of a log are kept: its end."""

_OWNER = 896
"""The offset in the head of the process that runs the attempt. The progress is before it."""

_OWNER_END = 1024
"""The offset of what follows: the log in a file of the version before, else the id of the job."""

_JOB = slice(_OWNER_END, _OWNER_END + 32)
_STOP = slice(_JOB.stop, _JOB.stop + 32)
"""The id of the job that was asked to stop: a flag would be taken for that of the next job."""

_TAKEN_FOR = slice(_STOP.stop, _STOP.stop + 32)
"""The id of the job for which the process has taken the file, also before the attempt is claimed and shown."""

_HELD = slice(_TAKEN_FOR.stop, _TAKEN_FOR.stop + 32)
"""The id of the job, if others must not run beside it: from before it is claimed until its file is settled."""

_ALL = slice(_JOB.start, _HELD.stop)
"""All of these ids: they follow one another."""

_THREAD = slice(_ALL.stop, _ALL.stop + 16)
"""The thread that runs the job, as the kernel numbers it."""

_FACTS = slice(_THREAD.stop, 4096)
"""What else is known of the process, as JSON: see :class:`Facts`."""

_LOG = 4096
"""The offset of the log, and the size of the head, which is mapped."""

_NOBODY = bytes(32)
_NO_JOBS = bytes(_ALL.stop - _ALL.start)
_NO_PROGRESS = b" " * (_OWNER - 1)

_MAX_FILES = 10_000
"""How many files one process may have."""


class Facts(NamedTuple):
    """What a file says of its process, once and not for each job."""

    #: How many processes of its group were killed for want of memory before the job; ``None``: not known.
    kills: cgroup.Kills | None = None
    #: Where to ask it for its stack; ``None``: it does not answer.
    stack: stacks.Address | None = None


class _ProcessFile:
    """A file of this process, for one attempt at a time. Raises ``OSError`` if it cannot be made."""

    def __init__(self, spool_dir: str) -> None:
        self.path, fd = _make(os.path.join(spool_dir, FOLDER))
        try:
            # Written through a mapping for which the disk has no room, the head would end this process by SIGBUS.
            files.write_all(fd, bytes(_LOG))
            self.head = mmap.mmap(fd, _LOG)
            self.head[_OWNER:_OWNER_END] = _own_name().ljust(_OWNER_END - _OWNER)
            self.fd = process.keep_open(fd)
        except BaseException:
            files.remove(self.path)
            raise
        finally:
            os.close(fd)
        self._file = process.file_of(self.fd)
        self._facts = b""
        self._stack = stacks.answer(spool_dir, os.path.basename(self.path))
        #: The thread that the file names, as the kernel numbers it.
        self.thread = 0
        self.tell_facts()
        self.empty_log()

    def tell_facts(self) -> None:
        """Write what is known of this process now, which later says how it died."""
        folder = _memory_group.get()
        kills = None if folder is None else cgroup.kills(folder)
        facts = json.dumps(Facts(kills, self._stack)).encode()
        if facts != self._facts and len(facts) <= _FACTS.stop - _FACTS.start:
            self.head[_FACTS] = facts.ljust(_FACTS.stop - _FACTS.start)
            self._facts = facts

    @property
    def is_lost(self) -> bool:
        """Whether a task has closed the descriptor, whose number may mean another file by now."""
        return process.file_of(self.fd) != self._file

    def is_usable(self) -> bool:
        """Whether another attempt can use the file: it is not lost, and others find it under its name."""
        try:
            about = os.fstat(self.fd)
        except OSError:
            return False
        # A child of an earlier task may have crashed, and written its traceback here.
        self.has_log = about.st_size > _LOG
        # One that somebody has cut, as a restored backup does, would end this process by SIGBUS.
        is_whole = about.st_size >= _LOG
        return (about.st_dev, about.st_ino) == self._file and about.st_nlink > 0 and is_whole

    def empty_log(self) -> None:
        os.ftruncate(self.fd, _LOG)
        os.lseek(self.fd, _LOG, os.SEEK_SET)
        self.has_log, self.log_size = False, 0


_memory_group = PerProcess(cgroup.own_folder)

_free: PerProcess[dict[str, list[_ProcessFile]]] = PerProcess(dict)
"""By spool directory: the files of this process that no attempt uses."""

_lost: list[_ProcessFile] = []
"""Files that are not used any more, kept: a mapping closes a descriptor at its end, which may be another file's now."""


class AttemptFile:
    """What one attempt shows. If there can be no file, nothing is shown and nothing is raised.

    Make it before the attempt is claimed: a process that reads there who runs the job finds the file to ask.

    Args:
        spool_dir: The spool directory that holds the file.
        id: The id of the job.
    """

    def __init__(self, spool_dir: str, id: str) -> None:
        self.spool_dir = spool_dir
        self.last_progress: Progress | None = None
        self._id = id.encode("utf-8", "surrogateescape").ljust(32, b"\0")[:32]
        self._free = _free.get().setdefault(spool_dir, [])
        self._file: _ProcessFile | None
        try:
            self._file = _take(self._free) or _ProcessFile(spool_dir)
        except OSError:
            self._file = None
        else:
            self._file.head[_STOP] = _NOBODY  # it may have been this job, in an attempt before it was requeued
            self._file.head[_TAKEN_FOR] = self._id

    def __enter__(self) -> AttemptFile:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        except Exception as error:
            # The end is recorded. If this were raised, the job would seem to have ended in another way.
            log.complain("what an attempt has shown could not be taken back", error=error)

    def begin(self) -> None:
        """Show that the attempt runs."""
        if (file := self._file) is None:
            return
        if file.head[1:2] == b"[":  # of the attempt before, perhaps from a child of its task
            file.head[1:_OWNER] = _NO_PROGRESS
        if file.has_log:
            with contextlib.suppress(OSError):
                file.empty_log()
        if (thread := threading.get_native_id()) != file.thread:  # in a spooler it is always the same
            file.head[_THREAD] = b"%16d" % thread
            file.thread = thread
        file.head[_JOB] = self._id  # last: from here on, what is before it is that of this job

    def hold(self) -> None:
        """Show until the end that the job is about to run, or runs, for those that must not run beside it.

        Raises:
            OSError: There is no file to show it in.
        """
        if self._file is None:
            raise OSError(errno.ENOSPC, "this process cannot make its file", os.path.join(self.spool_dir, FOLDER))
        self._file.head[_HELD] = self._id

    @property
    def fd(self) -> int:
        """The descriptor to which the log is appended; -1 if there is none."""
        return -1 if self._file is None else self._file.fd

    @property
    def is_lost(self) -> bool:
        """Whether the task has closed this file, which is not its own."""
        return self._file is not None and self._file.is_lost

    @property
    def cancel_asked(self) -> bool:
        """Whether the job was asked to stop."""
        return self._file is not None and self._file.head[_STOP] == self._id

    def checkpoint(self) -> Checkpoint:
        """The checkpoint of the job."""
        return Checkpoint(self.spool_dir, self._id.rstrip(b"\0").decode("utf-8", "surrogateescape"))

    def ask_to_stop(self) -> None:
        """Ask the job to stop, from this very process: see :func:`ask_to_stop`."""
        if (file := self._shown()) is not None:
            file.head[_STOP] = self._id

    def progress(self, progress: Progress) -> None:
        """Show the progress of the job. Raises ``ValueError`` or ``TypeError`` if it cannot be written as JSON."""
        line = _line(progress)  # first: progress that cannot be written here cannot be recorded either
        self.last_progress = progress
        if (file := self._shown()) is not None:
            file.head[1:_OWNER] = line

    def write(self, text: str) -> None:
        """Add ``text`` to the log."""
        data = text.encode("utf-8", "backslashreplace")[-LOG_LIMIT:]
        # Checked before each use: a task that closed all descriptors may have opened another file under this number.
        if (file := self._shown()) is None or file.is_lost:
            return
        with contextlib.suppress(OSError):
            file.log_size += os.write(file.fd, data)
            if file.log_size > 2 * LOG_LIMIT:
                _cut(file)

    def _shown(self) -> _ProcessFile | None:
        """The file, while it shows this attempt: a child that the task has left behind still has it afterwards."""
        return self._file if self._file is not None and self._file.head[_JOB] == self._id else None

    def log(self) -> str:
        """Return the end of the log, at most :data:`LOG_LIMIT` bytes of it."""
        if (file := self._file) is None or not file.log_size or file.is_lost:
            return ""
        with contextlib.suppress(OSError):
            return _log(file.fd, _LOG)
        return ""

    def close(self) -> None:
        """Show nothing any more: the end of the attempt is recorded. The file is for the next attempt."""
        file, self._file = self._file, None
        if file is None:
            return
        file.head[_ALL] = _NO_JOBS
        self._free.append(file)


def _take(free: list[_ProcessFile]) -> _ProcessFile | None:
    try:
        while not (file := free.pop()).is_usable():
            _lost.append(file)
        return file
    except IndexError:  # none is free, or none any more
        return None


def leave() -> None:
    """Remove the files of this process that no attempt uses: it runs no other. Never raises ``OSError``."""
    stacks.leave()
    free = _free.get()
    for spool_dir in list(free):  # a thread may close the file of its attempt meanwhile
        for file in free.pop(spool_dir, []):
            if file.is_usable():
                files.remove(file.path)
            _lost.append(file)


def _own_name() -> bytes:
    return b"%d%s" % (os.getpid(), process.own())


def _make(folder: str) -> tuple[str, int]:
    """Create a file of this process. Returns its path and a descriptor."""
    for number in range(_MAX_FILES):
        path = os.path.join(folder, f"{os.getpid()}.{number}" if number else f"{os.getpid()}")
        while True:
            try:
                return path, files.create(path)
            except FileNotFoundError:
                files.make_folder(folder)
            except FileExistsError:
                # Of another thread, or of a dead process with this pid, whose last words may not have been read yet.
                if not _is_left_over(path):
                    break
                files.remove(path)
    raise OSError(f"{folder} has {_MAX_FILES} files of this process")


def _cut(file: _ProcessFile) -> None:
    end = os.lseek(file.fd, 0, os.SEEK_END)
    data = os.pread(file.fd, LOG_LIMIT, end - LOG_LIMIT)
    os.pwrite(file.fd, data, _LOG)
    os.ftruncate(file.fd, _LOG + len(data))
    file.log_size = os.lseek(file.fd, 0, os.SEEK_END) - _LOG


class _Found(NamedTuple):
    """The open file of an attempt, as another process sees it."""

    #: Its descriptor.
    fd: int
    #: Its path.
    path: str
    #: Where its log begins.
    log: int
    #: The process that it belongs to, as :func:`_own_name` writes it.
    owner: bytes
    #: The id of the job; empty: the process runs none.
    id: str


def is_running(spool_dir: str, id: str) -> bool:
    """Return whether another process is running an attempt of the job ``id``, by the file of that attempt."""
    return any(_is_alive(found.owner) and not _is_own(found.owner) for found in _of_job(spool_dir, id))


def has_left(spool_dir: str, pid: int, identity: bytes, id: str) -> bool:
    """Return whether a living process runs an attempt of the job ``id`` no longer, by all of its files.

    Without any file it is not known, and the answer is no.
    """
    folder, owner = os.path.join(spool_dir, FOLDER), (b"%d%s" % (pid, identity)).rstrip(b" \0")
    names = [name for name in _names(folder) if name.partition(".")[0] == str(pid)]
    found = False
    for file in _look_into([os.path.join(folder, name) for name in names]):
        if file.owner == owner:
            if os.pread(file.fd, 32, _TAKEN_FOR.start).rstrip(b"\0") == id.encode():
                return False
            found = True
    return found


def read(spool_dir: str, id: str, pid: int | None = None) -> tuple[Progress | None, str]:
    """Read what an attempt shows that is running, or whose process died before it recorded its end.

    Args:
        spool_dir: The spool directory that holds the file.
        id: The id of the job.
        pid: The process that runs it, whose files are looked into first; ``None``: not known.

    Returns:
        The progress, ``None`` if the task reported none, and the end of the log. ``(None, "")`` if there is no file.
    """
    seen: tuple[Progress | None, str] = None, ""
    for found in _of_job(spool_dir, id, pid):
        with contextlib.suppress(OSError):
            shown = _progress(found.fd), _log(found.fd, found.log)
            if _job_of(found.fd, found.path) != id:
                continue  # meanwhile the process has gone on to another job, whose progress this may be
            seen = shown
            if _is_alive(found.owner):
                break
    return seen


def facts(spool_dir: str, pid: int) -> Facts:
    """Return what is known of the process ``pid``, which may have died, by its files. Never raises ``OSError``."""
    folder = os.path.join(spool_dir, FOLDER)
    names = [name for name in _names(folder) if name.partition(".")[0] == str(pid)]
    for found in _look_into([os.path.join(folder, name) for name in names]):
        return _facts(os.pread(found.fd, _FACTS.stop - _FACTS.start, _FACTS.start))
    return Facts()


def _facts(line: bytes) -> Facts:
    try:
        kills, stack = json.loads(line.strip(b" \0"))
        return Facts(kills and cgroup.Kills(*kills), stack and stacks.Address(*stack))
    except (ValueError, KeyError, TypeError):  # of the version before, or of a later one
        return Facts()


class Runner(NamedTuple):
    """Who runs a job."""

    #: The process.
    pid: int
    #: Its :func:`spoolkit.system.process.identity`.
    identity: bytes
    #: The thread in it, as the kernel numbers it; 0: not known.
    thread: int
    #: Where to ask it for its stack; ``None``: it does not answer.
    stack: stacks.Address | None


def runner(spool_dir: str, id: str, pid: int) -> Runner | None:
    """Return who runs the job ``id`` now, in the process ``pid``; ``None`` if its attempt is not shown.

    Raises:
        OSError: Its file cannot be read.
    """
    for found in _of_job(spool_dir, id, pid):
        number, space, identity = found.owner.partition(b" ")
        if number == b"%d" % pid and _is_alive(found.owner):
            thread = os.pread(found.fd, _THREAD.stop - _THREAD.start, _THREAD.start).strip(b" \0")
            shown = _facts(os.pread(found.fd, _FACTS.stop - _FACTS.start, _FACTS.start))
            # In a file of the version before, the log is there.
            return Runner(pid, space + identity, int(thread) if thread.isdigit() else 0, shown.stack)
    return None


def ask_to_stop(spool_dir: str, id: str, pid: int | None) -> None:
    """Ask the job ``id`` to stop, which the process ``pid`` runs. Never raises ``OSError``."""
    folder = os.path.join(spool_dir, FOLDER)
    names = [] if pid is None else [name for name in _names(folder) if name.partition(".")[0] == str(pid)]
    for name in names:
        with contextlib.suppress(OSError):
            fd = files.open_regular(os.path.join(folder, name), os.O_RDWR)
            try:
                # Not the files of its other jobs, which may have been asked to stop as well.
                if os.pread(fd, 32, _TAKEN_FOR.start) == id.encode():
                    os.pwrite(fd, id.encode(), _STOP.start)
            finally:
                os.close(fd)
    if not names:
        # The process is of the version before.
        with contextlib.suppress(OSError):
            fd = files.open_or_create(os.path.join(folder, id))
            try:
                os.pwrite(fd, b"1", 0)
            finally:
                os.close(fd)


def delete(spool_dir: str, id: str) -> None:
    """Delete the file that an attempt of the job has left behind, if there is one. Never raises ``OSError``.

    A living process that has gone on to another job makes itself a new one.
    """
    files.remove(os.path.join(spool_dir, FOLDER, id))
    for found in _of_job(spool_dir, id):
        files.remove(found.path)


def held(spool_dir: str) -> list[str]:
    """Return the ids of the jobs that other living processes hold: see :meth:`AttemptFile.hold`."""
    found = [(file.owner, os.pread(file.fd, 32, _HELD.start)) for file in _all(spool_dir)]
    return [
        id.rstrip(b"\0").decode("ascii", "replace")
        for owner, id in found
        if id.rstrip(b"\0") and not _is_own(owner) and _is_alive(owner)
    ]


def job_ids(spool_dir: str) -> list[str]:
    """Return the ids of the jobs of which an attempt is shown."""
    return [found.id for found in _all(spool_dir) if found.id]


def heads(spool_dir: str) -> list[bytes]:
    """Return what attempts show now, to be compared with a later answer. Never raises ``OSError``.

    For each file that belongs to a job: its progress, its job, and the size of its log.
    """
    found = []
    for file in _all(spool_dir):
        if file.id:
            size = os.fstat(file.fd).st_size
            found.append(b"%s %s %d" % (os.pread(file.fd, _OWNER, 0).rstrip(b" \0"), file.id.encode(), size))
    return sorted(found)


def sweep(spool_dir: str) -> None:
    """Delete the files of dead processes that ran no job when they ended, and renew those of this one.

    Never raises ``OSError``.
    """
    stacks.sweep(spool_dir)
    for file in list(_free.get().get(spool_dir, ())):
        if file.is_usable():
            file.tell_facts()
    folder = os.path.join(spool_dir, FOLDER)
    for name in _names(folder):
        if _is_of_process(name) and _is_left_over(path := os.path.join(folder, name)):
            files.remove(path)


def _is_left_over(path: str) -> bool:
    """Whether the process of this file is gone, and ran no job at its end."""
    pid = int(os.path.basename(path).partition(".")[0])
    return any(
        # A file that is being made has no owner yet.
        not found.id and not (_is_alive(found.owner) if found.owner else process.started(pid) is not None)
        for found in _look_into([path])
    )


def _of_job(spool_dir: str, id: str, pid: int | None = None) -> Iterator[_Found]:
    return (found for found in _all(spool_dir, str(pid)) if found.id == id)


def _all(spool_dir: str, first: str = "") -> Iterator[_Found]:
    folder = os.path.join(spool_dir, FOLDER)
    names = sorted(_names(folder), key=lambda name: name.partition(".")[0] != first)
    return _look_into([os.path.join(folder, name) for name in names])


def _look_into(paths: list[str]) -> Iterator[_Found]:
    """Yield what these files are, each with a descriptor that is closed when the next one is asked for."""
    for path in paths:
        with contextlib.suppress(OSError):
            fd = files.open_regular(path)
            try:
                owner = os.pread(fd, _OWNER_END - _OWNER, _OWNER).rstrip(b" \0")
                log_begin = _LOG if _is_of_process(os.path.basename(path)) else _OWNER_END
                yield _Found(fd, path, log_begin, owner, _job_of(fd, path))
            finally:
                os.close(fd)


def _job_of(fd: int, path: str) -> str:
    """The id of the job that the file shows now; empty if it shows none."""
    name = os.path.basename(path)
    return os.pread(fd, 32, _JOB.start).rstrip(b"\0").decode("ascii", "replace") if _is_of_process(name) else name


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_of_process(name: str) -> bool:
    return len(name) < 32 and name.replace(".", "").isdigit()


def _is_own(owner: bytes) -> bool:
    return owner == _own_name().rstrip(b" \0")


def _is_alive(owner: bytes) -> bool:
    pid, space, identity = owner.partition(b" ")
    return pid.isdigit() and process.is_alive(int(pid), space + identity)


def _line(progress: Progress) -> bytes:
    note = progress.note
    while True:
        line = json.dumps([progress.done, progress.total, note]).encode().ljust(_OWNER - 1)
        if len(line) < _OWNER or not note:
            return line[: _OWNER - 1]
        note = note[: len(note) // 2]


def _progress(fd: int) -> Progress | None:
    for _ in range(3):  # another process may be writing the line at this moment
        line = os.pread(fd, _OWNER - 1, 1).strip(b" \0")
        if not line:
            return None
        try:
            return Progress(*json.loads(line))
        except ValueError:
            continue
    return None


def _log(fd: int, begin: int) -> str:
    start = max(begin, os.fstat(fd).st_size - LOG_LIMIT)
    return os.pread(fd, LOG_LIMIT, start).decode("utf-8", "replace")
