"""What a running attempt shows of itself: progress, log, and whether it shall stop. One small file, ``running/<id>``.

It lies in the page cache and not in the store, so that a task may report ten thousand times a second; it outlives the
process, so that what a crash leaves behind can be read; and who wants the job to stop leaves the word there.
"""

from __future__ import annotations

import contextlib
import json
import os

from spoolkit.job import Progress
from spoolkit.system import files, process

FOLDER = "running"
LOG_LIMIT = 64 * 1024
"""Bytes of a log that are kept: its end."""

_HEADER = 1024
_OWNER = 896
"""Where in the header the process stands that runs the attempt; before it, the progress."""

_STOP = b"1"


class Recorder:
    """The file of one attempt of the job ``id``, made in ``folder``. Where it cannot be made, nothing is shown."""

    def __init__(self, folder: str, id: str) -> None:
        self.path = os.path.join(folder, FOLDER, id)
        self.fd = -1
        self.last: Progress | None = None
        self._size = 0
        self._file: tuple[int, int] | None = None
        with contextlib.suppress(OSError):
            self.fd = _opened(self.path)
            # The word to stop is kept: it may have been left before this attempt came so far.
            os.truncate(self.fd, min(1, os.fstat(self.fd).st_size))
            os.lseek(self.fd, _HEADER, os.SEEK_SET)
            self._file = process.file_of(self.fd)
            os.pwrite(self.fd, (b"%d%s" % (os.getpid(), process.own())).ljust(_HEADER - _OWNER), _OWNER)

    @property
    def is_lost(self) -> bool:
        """Whether the task has closed descriptors that were not its own."""
        return self._file is not None and process.file_of(self.fd) != self._file

    @property
    def _own(self) -> int:
        """The descriptor; -1, which every call refuses, where its number is not ours any more."""
        # Asked before each use: a task that closed all descriptors may have another file under this number.
        return -1 if self.is_lost else self.fd

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the job to stop."""
        try:
            return os.pread(self._own, 1, 0) == _STOP
        except OSError:
            return False

    def progress(self, progress: Progress) -> None:
        """Show how far the job is."""
        line = _line(progress)  # before it is kept: what cannot be written here cannot be recorded either
        self.last = progress
        with contextlib.suppress(OSError):
            os.pwrite(self._own, line, 1)

    def write(self, text: str) -> None:
        """Add to the log."""
        data = text.encode("utf-8", "backslashreplace")[-LOG_LIMIT:]
        with contextlib.suppress(OSError):
            self._size += os.write(self._own, data)
            if self._size > 2 * LOG_LIMIT:
                self._cut()

    def _cut(self) -> None:
        end = os.lseek(self.fd, 0, os.SEEK_END)
        kept = os.pread(self.fd, LOG_LIMIT, end - LOG_LIMIT)
        os.pwrite(self.fd, kept, _HEADER)
        os.ftruncate(self.fd, _HEADER + len(kept))
        self._size = os.lseek(self.fd, 0, os.SEEK_END) - _HEADER

    def log(self) -> str:
        """The end of the log."""
        with contextlib.suppress(OSError):  # the task closed what is not its own
            return _log(self._own) if self._size else ""
        return ""

    def close(self) -> None:
        """Close the file, which stays until the attempt is recorded: see :func:`delete`."""
        if self.fd >= 0 and not self.is_lost:
            os.close(self.fd)
        self.fd = -1


def is_running(folder: str, id: str) -> bool:
    """Whether another process is at an attempt of the job ``id``, by what it has left there."""
    try:
        fd = files.open_regular(os.path.join(folder, FOLDER, id))
    except OSError:
        return False
    try:
        owner = os.pread(fd, _HEADER - _OWNER, _OWNER).rstrip(b" ")
    finally:
        os.close(fd)
    pid, space, identity = owner.partition(b" ")
    return pid.isdigit() and int(pid) != os.getpid() and process.is_alive(int(pid), space + identity)


def read(folder: str, id: str) -> tuple[Progress | None, str]:
    """The progress and the log of the attempt that runs, or that its process did not live to record."""
    try:
        fd = files.open_regular(os.path.join(folder, FOLDER, id))
    except OSError:
        return None, ""
    try:
        return _progress(fd), _log(fd)
    except OSError:
        return None, ""
    finally:
        os.close(fd)


def ask_to_stop(folder: str, id: str) -> None:
    """Leave word for the running job ``id``."""
    with contextlib.suppress(OSError):
        path = os.path.join(folder, FOLDER, id)
        try:
            fd = files.create(path)
        except FileExistsError:
            fd = files.open_regular(path, os.O_RDWR)
        try:
            os.pwrite(fd, _STOP, 0)
        finally:
            os.close(fd)


def delete(folder: str, id: str) -> None:
    """Remove what the attempt left behind."""
    files.remove(os.path.join(folder, FOLDER, id))


def job_ids(folder: str) -> list[str]:
    """The jobs of which an attempt's file is there."""
    try:
        return os.listdir(os.path.join(folder, FOLDER))
    except OSError:
        return []


def _opened(path: str) -> int:
    """A descriptor of the file, which is made, with its folder, where it is missing."""
    try:
        return files.create(path)
    except FileNotFoundError:
        files.make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            return files.create(path)
    except FileExistsError:
        pass
    return files.open_regular(path, os.O_RDWR)


def _line(progress: Progress) -> bytes:
    note = progress.note
    while True:
        line = json.dumps([progress.done, progress.total, note]).encode().ljust(_OWNER - 1)
        if len(line) < _OWNER or not note:
            return line[: _OWNER - 1]
        note = note[: len(note) // 2]


def _progress(fd: int) -> Progress | None:
    for _ in range(3):  # a line that is being written may be read half
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
