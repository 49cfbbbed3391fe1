"""What does a running attempt show, and was it asked to stop? The file ``running/<id>`` holds progress, log and a flag.

It is in the page cache, not in the store, so that a task may report ten thousand times a second. It outlives the
process, so that the log of a crash can be read. A process that wants the job to stop sets the flag.
"""

from __future__ import annotations

import contextlib
import json
import os

from spoolkit.job import Progress
from spoolkit.system import files, process

FOLDER = "running"
LOG_LIMIT = 64 * 1024
"""How many bytes of a log are kept: its end."""

_HEADER = 1024
_OWNER = 896
"""The offset in the header of the process that runs the attempt. The stop flag and the progress are before it."""

_STOP = b"1"


class AttemptFile:
    """The file of one attempt. If it cannot be made, nothing is shown and nothing is raised.

    Args:
        spool_dir: The spool directory that holds the file.
        id: The id of the job.
    """

    def __init__(self, spool_dir: str, id: str) -> None:
        self.path = os.path.join(spool_dir, FOLDER, id)
        self.fd = -1
        self.last_progress: Progress | None = None
        self._size = 0
        self._file: tuple[int, int] | None = None
        with contextlib.suppress(OSError):
            self.fd = _open(self.path)
            # The stop flag is kept: it may have been set before this attempt came so far.
            os.truncate(self.fd, min(1, os.fstat(self.fd).st_size))
            os.lseek(self.fd, _HEADER, os.SEEK_SET)
            self._file = process.file_of(self.fd)
            os.pwrite(self.fd, (b"%d%s" % (os.getpid(), process.own())).ljust(_HEADER - _OWNER), _OWNER)

    @property
    def is_lost(self) -> bool:
        """Whether the task has closed this file, which is not its own."""
        return self._file is not None and process.file_of(self.fd) != self._file

    @property
    def _own(self) -> int:
        """The descriptor; -1, which every system call refuses, if its number now means another file."""
        # Checked before each use: a task that closed all descriptors may have opened another file under this number.
        return -1 if self.is_lost else self.fd

    @property
    def cancel_asked(self) -> bool:
        """Whether the job was asked to stop."""
        try:
            return os.pread(self._own, 1, 0) == _STOP
        except OSError:
            return False

    def progress(self, progress: Progress) -> None:
        """Show the progress of the job. Raises ``ValueError`` or ``TypeError`` if it cannot be written as JSON."""
        line = _line(progress)  # first: progress that cannot be written here cannot be recorded either
        self.last_progress = progress
        with contextlib.suppress(OSError):
            os.pwrite(self._own, line, 1)

    def write(self, text: str) -> None:
        """Add ``text`` to the log."""
        data = text.encode("utf-8", "backslashreplace")[-LOG_LIMIT:]
        with contextlib.suppress(OSError):
            self._size += os.write(self._own, data)
            if self._size > 2 * LOG_LIMIT:
                self._cut()

    def _cut(self) -> None:
        end = os.lseek(self.fd, 0, os.SEEK_END)
        data = os.pread(self.fd, LOG_LIMIT, end - LOG_LIMIT)
        os.pwrite(self.fd, data, _HEADER)
        os.ftruncate(self.fd, _HEADER + len(data))
        self._size = os.lseek(self.fd, 0, os.SEEK_END) - _HEADER

    def log(self) -> str:
        """Return the end of the log, at most :data:`LOG_LIMIT` bytes of it."""
        with contextlib.suppress(OSError):  # the task has closed this file
            return _log(self._own) if self._size else ""
        return ""

    def close(self) -> None:
        """Close the file, which stays until the attempt is recorded: see :func:`delete`."""
        if self.fd >= 0 and not self.is_lost:
            os.close(self.fd)
        self.fd = -1


def is_running(spool_dir: str, id: str) -> bool:
    """Return whether another process is running an attempt of the job ``id``, by the file of that attempt."""
    try:
        fd = files.open_regular(os.path.join(spool_dir, FOLDER, id))
    except OSError:
        return False
    try:
        owner = os.pread(fd, _HEADER - _OWNER, _OWNER).rstrip(b" ")
    finally:
        os.close(fd)
    pid, space, identity = owner.partition(b" ")
    return pid.isdigit() and int(pid) != os.getpid() and process.is_alive(int(pid), space + identity)


def read(spool_dir: str, id: str) -> tuple[Progress | None, str]:
    """Read the file of an attempt that is running, or whose process died before it recorded its end.

    Args:
        spool_dir: The spool directory that holds the file.
        id: The id of the job.

    Returns:
        The progress, ``None`` if the task reported none, and the end of the log. ``(None, "")`` if there is no file.
    """
    try:
        fd = files.open_regular(os.path.join(spool_dir, FOLDER, id))
    except OSError:
        return None, ""
    try:
        return _progress(fd), _log(fd)
    except OSError:
        return None, ""
    finally:
        os.close(fd)


def ask_to_stop(spool_dir: str, id: str) -> None:
    """Set the stop flag of the running job ``id``. Never raises ``OSError``."""
    with contextlib.suppress(OSError):
        fd = files.open_or_create(os.path.join(spool_dir, FOLDER, id))
        try:
            os.pwrite(fd, _STOP, 0)
        finally:
            os.close(fd)


def delete(spool_dir: str, id: str) -> None:
    """Delete the file of the job's attempt, if there is one. Never raises ``OSError``."""
    files.remove(os.path.join(spool_dir, FOLDER, id))


def job_ids(spool_dir: str) -> list[str]:
    """Return the ids of the jobs for which there is a file of an attempt."""
    try:
        return os.listdir(os.path.join(spool_dir, FOLDER))
    except OSError:
        return []


def _open(path: str) -> int:
    """Open the file of an attempt. It is created if it is missing, and so is its folder."""
    try:
        return files.open_or_create(path)
    except FileNotFoundError:
        files.make_folder(os.path.dirname(path))
        return files.open_or_create(path)


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


def _log(fd: int) -> str:
    start = max(_HEADER, os.fstat(fd).st_size - LOG_LIMIT)
    return os.pread(fd, LOG_LIMIT, start).decode("utf-8", "replace")
