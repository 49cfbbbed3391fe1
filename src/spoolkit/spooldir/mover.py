"""Who moves delayed jobs into the spool directory when they are due? One elected process; where none lives, spoolers.

The elected process holds the lock in ``later/``. It learns of new files from the named pipe there, remembers those that
are due next, and so reads the folder once and not for each of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import select
import stat
import time
from collections.abc import Generator, Iterable
from itertools import islice

from spoolkit.spooldir import later, spoolers, spoolfile
from spoolkit.spooldir.later import Due
from spoolkit.system import clock, files, log, process

LOCK = "lock"
"""The file in the folder that the elected process has locked."""

PIPE_SIZE = 1 << 20
"""Bytes that the pipe is to hold: room for the messages of callers that are faster than this process."""

WINDOW = 10_000
"""How many of the files that are due next the process remembers; the others are read again after these."""

SLICE = 500
"""Entries of the folder that are read, and then files that are due are moved: 100,000 entries take half a second."""

AT_ONCE = 100
"""Files that are moved before the next look at anything else."""

ELECTION = 0.5
"""Seconds after which a process that is not the elected one asks again."""

CHECK = 1.0
"""Seconds between two checks whether the folder has changed without a message: the writer may have been killed."""

REREAD = 30.0
"""Seconds after which the folder is read again if it has changed, although there were messages and moves as well."""

SHARE = 20
"""The folder is read again after this many times the seconds that it took to read it, and not earlier."""

TICKET_PAUSE = 0.5
"""Seconds between two looks of one spooler at the delayed jobs, at least: each wake-up makes it scan."""


class Mover:
    """Moves the delayed jobs of a spool directory in when they are due, as long as no other process does so.

    Call :meth:`step` again and again, from one thread: once its seconds have passed, or :attr:`pipe` can be read.

    Args:
        spool_dir: The spool directory.
    """

    def __init__(self, spool_dir: str) -> None:
        self._spool_dir = spool_dir
        self._folder = os.path.join(spool_dir, later.FOLDER)
        self._lock: _Opened | None = None
        self._pipe: _Opened | None = None
        self._capacity = 0
        """How many bytes the pipe holds."""
        self._rest = b""
        """The beginning of a message whose end is not read yet."""
        self._queue: list[Due] = []
        """The files that are due next: a heap."""
        self._times: dict[str, int] = {}
        """When each file in the queue is due. If the queue says something else of it, that is out of date."""
        self._horizon: int | None = None
        """When the first file is due that is not in the queue; ``None``: all are in it that were read."""
        self._reading: Generator[Due] | None = None
        """The entries of the folder that are not read yet, while it is being read."""
        self._took = 0.0
        """Seconds that it took to read the folder."""
        self._next_reading = 0.0
        """When the folder may be read again, on the monotonic clock."""
        self._folders = {self._folder}
        """The folder, and those of priorities in it."""
        self._changed: object = None
        """When the folder had last changed at the last check."""
        self._read_changed: object = None
        """When the folder had last changed before it was read; ``None`` if it may have changed again since."""
        self._next_check = 0.0
        self._is_active = False
        """Whether a message or a file was moved since the last check, which changes the folder."""
        self._is_unexplained = False
        """Whether the folder has changed without a message or a move since it was read."""

    @property
    def pipe(self) -> int | None:
        """The descriptor to wait for; ``None`` while another process is elected."""
        return None if self._pipe is None else self._pipe.fd

    def step(self) -> float:
        """Move the files that are due, if this process is the elected one.

        Returns:
            The seconds after which to call it again. Never raises ``OSError``.
        """
        try:
            if not self._is_elected():
                return ELECTION
            self._hear()
            self._check()
            self._read_on()
            self._move_due()
        except OSError as error:
            self._stop_reading()
            log.complain("the delayed jobs of %s cannot be moved: %s", self._spool_dir, error)
            return ELECTION
        if self._reading is not None or self._is_used_up():
            return 0.0
        soonest = CHECK if not self._queue else (self._queue[0][0] - later.now()) / 1e9
        return min(CHECK, max(0.0, soonest))

    def interrupt(self) -> None:
        """Have :func:`wait` return in another thread. Never raises ``OSError``."""
        if self._pipe is not None and not self._pipe.is_lost:
            with contextlib.suppress(OSError):  # it is full, so that nobody waits
                os.write(self._pipe.fd, b"\n")

    def close(self) -> None:
        """Let another process be elected. In a forked child: close what it has of its parent's."""
        self._stop_reading()
        for opened in (self._lock, self._pipe):
            if opened is not None:
                opened.close()
        self._lock = self._pipe = None

    def _is_elected(self) -> bool:
        if self._lock is not None and self._pipe is not None and self._lock.is_usable and self._pipe.is_usable:
            return True
        self.close()
        if not os.path.isdir(self._spool_dir):
            return False
        files.check_user(self._spool_dir)
        files.make_folder(self._folder)
        path = os.path.join(self._folder, LOCK)
        self._lock = _Opened(files.open_or_create(path), path)
        if not files.try_lock(self._lock.fd):
            self.close()
            return False
        try:
            path = os.path.join(self._folder, later.PIPE)
            self._pipe = _Opened(_open_pipe(path), path)
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._pipe.fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            self._capacity = fcntl.fcntl(self._pipe.fd, fcntl.F_GETPIPE_SZ)
        except BaseException:
            self.close()
            raise
        self._rest = b""
        files.remove(os.path.join(self._spool_dir, spoolfile.TICKET))
        # With the pipe open: a file that is not listed now is announced there.
        self._start_reading()
        return True

    def _hear(self) -> None:
        """Read the messages in the pipe."""
        if self._pipe is None:
            return
        try:
            data = os.read(self._pipe.fd, 1 << 20)
        except BlockingIOError:
            return
        self._is_active = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            due, _, name = line.partition(b" ")
            if due.isdigit() and later.is_name(name):
                self._learn(int(due), os.fsdecode(name))
        if len(data) > self._capacity // 2:
            self._start_reading()  # the pipe may have been full, so that messages are missing

    def _learn(self, due: int, name: str) -> None:
        """Remember a file that is due before the horizon."""
        if os.sep in name:
            self._folders.add(os.path.join(self._folder, os.path.dirname(name)))
        if self._horizon is None or due < self._horizon:
            self._remember(due, name)
            if len(self._queue) > 2 * WINDOW:
                self._queue.sort()
                self._horizon = self._queue[WINDOW][0]
                del self._queue[WINDOW:]
                self._times = {name: due for due, name in self._queue if self._times.get(name) == due}

    def _remember(self, due: int, name: str) -> None:
        if self._times.get(name) != due:
            self._times[name] = due
            heapq.heappush(self._queue, (due, name))

    def _check(self) -> None:
        """Read the folder if it has changed without a message, or has not been read for some time."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK
        changed = self._last_change()
        self._is_unexplained |= changed != self._changed and not self._is_active
        self._changed, self._is_active = changed, False
        # Not from the beginning while it is being read: that would never end where the folder changes every second.
        if (
            self._reading is None
            and now >= self._next_reading
            and (self._is_unexplained or (changed != self._read_changed and now >= self._next_reading + REREAD))
        ):
            self._start_reading()

    def _last_change(self) -> dict[str, int]:
        found = {}
        for folder in self._folders:
            with contextlib.suppress(FileNotFoundError):
                found[folder] = os.stat(folder).st_mtime_ns
        return found

    def _start_reading(self) -> None:
        """Begin to read the folder: not at once, because jobs must not wait for it that are due meanwhile."""
        self._stop_reading()
        self._changed = found = self._last_change()
        # Many file systems have only the time of the kernel's last tick: a file that comes in the same one after it is
        # listed does not change the folder's time. So the folder is read once more, some time later.
        recent = later.now() - int(spoolfile.COARSE * 1e9)
        self._read_changed = None if max(found.values(), default=0) > recent else found
        self._is_unexplained = False
        self._horizon = None
        self._reading, self._took = later.entries(self._spool_dir), 0.0

    def _read_on(self) -> None:
        if self._reading is None:
            return
        began = time.monotonic()
        entries = list(islice(self._reading, SLICE))
        for due, name in entries:
            self._learn(due, name)
        ended = time.monotonic()
        self._took += ended - began
        if len(entries) < SLICE:
            self._stop_reading()
            self._next_reading = ended + SHARE * self._took

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _is_used_up(self) -> bool:
        """Whether files may be due that are not in the queue, before any that is."""
        if self._horizon is None or self._reading is not None:
            return False
        if not self._queue:
            return True
        # What is left are files that could not be moved, or that got a later time; there may be thousands of them.
        return self._queue[0][0] > self._horizon and time.monotonic() >= self._next_reading

    def _move_due(self) -> None:
        for _ in range(AT_ONCE):
            if self._is_used_up():
                self._start_reading()
                self._read_on()
            if not self._queue or self._queue[0][0] > later.now():
                break
            due, name = heapq.heappop(self._queue)
            if self._times.get(name) == due:
                del self._times[name]
                self._move(name)

    def _move(self, name: str) -> None:
        path = os.path.join(self._folder, name)
        try:
            due = later.move_in(path, self._spool_dir)
        except OSError as error:
            log.complain("the delayed job %s cannot be moved to the spool directory: %s", path, error)
            due = later.now() + 10**9
        if due:
            self._remember(due, name)
        else:
            self._is_active = True
            spoolers.wake(self._spool_dir, spoolfile.id_of(os.path.basename(name)))


class _Opened:
    """A descriptor that outlives a job: a task may close it, and open another file under its number."""

    def __init__(self, fd: int, path: str) -> None:
        self._path = path
        try:
            self.fd = process.keep_open(fd)
        finally:
            os.close(fd)
        self._file = process.file_of(self.fd)
        self._is_in_place = clock.Sampled(self._has_name)

    @property
    def is_usable(self) -> bool:
        """Whether the descriptor is that of the file, and the file was in its folder a moment ago."""
        return not self.is_lost and self._is_in_place()

    @property
    def is_lost(self) -> bool:
        return process.file_of(self.fd) != self._file

    def _has_name(self) -> bool:
        try:
            about = os.lstat(self._path)
        except FileNotFoundError:
            return False  # somebody has removed the folder: callers make it anew, and would not be heard
        return (about.st_dev, about.st_ino) == self._file

    def close(self) -> None:
        if not self.is_lost:
            os.close(self.fd)


def _open_pipe(path: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    if not stat.S_ISFIFO(os.lstat(path).st_mode):
        os.unlink(path)
        os.mkfifo(path, 0o600)
    # For writing too: it would be at its end whenever no other process has it open.
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise files.NotOursError(path)
        files.give(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def wait(movers: Iterable[Mover], seconds: float) -> None:
    """Sleep for ``seconds``, or until one of the movers has a message."""
    poll = select.poll()
    for mover in movers:
        if mover.pipe is not None:
            poll.register(mover.pipe, select.POLLIN)
    poll.poll(seconds * 1000)


# Where no process is elected


def move_all_due(spool_dir: str) -> bool:
    """Move the jobs in that are due, if no process is elected to do so: spoolers do it at their scans. Never raises.

    A spooler is not elected itself: a long job would keep it from moving others.

    Returns:
        Whether any job was due.
    """
    return not later.has_mover(spool_dir) and _move_all(spool_dir, _due(spool_dir))


def _due(spool_dir: str) -> list[str]:
    try:
        return [name for time, name in later.entries(spool_dir) if time <= later.now()]
    except OSError:
        return []  # there is no such folder yet


def _move_all(spool_dir: str, names: list[str]) -> bool:
    for name in names:
        path = os.path.join(spool_dir, later.FOLDER, name)
        try:
            later.move_in(path, spool_dir)
        except OSError as error:
            log.complain("the delayed job %s cannot be moved to the spool directory: %s", path, error)
    return bool(names)


def answer(spool_dir: str) -> None:
    """Do what the ticket asks a spooler of uWSGI to do, see :func:`later.call_spoolers`. Never raises ``OSError``."""
    ticket, next_looks, began = os.path.join(spool_dir, spoolfile.TICKET), _next_looks.get(), time.monotonic()
    if later.has_mover(spool_dir):
        files.remove(ticket)
    elif began >= next_looks.get(spool_dir, 0.0):
        names = _due(spool_dir)
        ended = time.monotonic()
        next_looks[spool_dir] = ended + max(TICKET_PAUSE, SHARE * (ended - began))
        if _move_all(spool_dir, names):
            spoolers.wake_all(spool_dir)
        if not later.has_delayed(spool_dir):
            files.remove(ticket)
            later.call_spoolers(spool_dir)


_next_looks: process.PerProcess[dict[str, float]] = process.PerProcess(dict)
"""When this spooler may look at the delayed jobs of a directory again, on the monotonic clock."""
