"""Which jobs are not due yet, and who moves them into the spool directory when they are?

They wait in ``later/``, where uWSGI does not look, so that no scan pays for them. The folder mirrors the spool
directory: the same names, the same folders of priorities, and the mtime of a file is its due time. One process per
spool directory, which holds a lock, moves each file in when it is due, by one rename, and wakes a spooler. It learns of
new files from a named pipe, so that it reads the folder once and not for each of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import select
import stat
import time
from collections.abc import Iterable, Iterator

from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.spooldir import dead, spoolers, spoolfile
from spoolkit.system import clock, files, log, process

FOLDER = spoolfile.LATER

LOCK = "lock"
"""The file in the folder that the process that moves the jobs has locked."""

PIPE = "news"
"""The named pipe in the folder by which that process hears of new files."""

PIPE_SIZE = 1 << 20
"""Bytes that the pipe is to hold: room for the messages that come while the folder is read."""

WINDOW = 10_000
"""How many of the files that are due next the process keeps in mind; the others are read again after these."""

ELECTION = 0.5
"""Seconds after which a process that is not the elected one asks again."""

CHECK = 1.0
"""Seconds between two checks whether the folder has changed without a word: the writer may have been killed."""

REREAD = 30.0
"""Seconds after which the folder is read again if it has changed; where nothing else happened, after one check."""

AT_ONCE = 100
"""Files that are moved before the next look at anything else."""

TICKET_PAUSE = 0.5
"""Seconds between two looks of one spooler at the delayed jobs: each wake-up makes it scan."""

MARKER = b"spoolkit_later"
"""The key in the packet of the ticket."""

COARSE = 50_000_000
"""Nanoseconds by which uWSGI's clock may be behind: on a whole second, it would not take a job that has become due."""

Due = tuple[int, str]
"""When a file is due, in unix nanoseconds, and its path in the folder."""


def write(
    spool_dir: str, name: str, data: bytes, *, run_at: float, priority: int | None = None, fsync: bool = False
) -> str:
    """Write the file of a job that is not due yet, whole or not at all: afterwards the job is accepted.

    Args:
        spool_dir: The spool directory.
        name: The name of the file, without uWSGI's prefix.
        data: The content.
        run_at: When the job is due, in unix seconds.
        priority: The priority of the job; ``None``: it has none.
        fsync: Whether the file must be on the disk when this function returns.

    Returns:
        The path of the file.

    Raises:
        OSError: The file could not be written; then there is none.
    """
    folder = _folder(spool_dir, "" if priority is None else str(priority))
    try:
        path = spoolfile.write(folder, name, data, run_at=run_at, fsync=fsync)
    except FileNotFoundError:
        _make_folder(spool_dir, folder, fsync=fsync)
        path = spoolfile.write(folder, name, data, run_at=run_at, fsync=fsync)
    _announce(spool_dir, path, run_at)
    return path


def put_off(path: str, spool_dir: str, run_at: float) -> str:
    """Make a job due at another time, under another name. By path alone: a spooler may do it to the file that it runs.

    Args:
        path: The file, in the spool directory or in the folder of delayed jobs.
        spool_dir: The spool directory.
        run_at: When the job is due, in unix seconds.

    Returns:
        The new path.

    Raises:
        OSError: The file is gone, or cannot be renamed.
    """
    if spoolfile.id_of(os.path.basename(path)) is None:
        return spoolfile.reschedule(path, run_at)  # another library's: it stays where that library put it
    folder = _folder(spool_dir, _priority(path))
    new = os.path.join(folder, os.path.basename(spoolfile.next_name(path)))
    os.utime(path, ns=spoolfile.ns_of(run_at))
    try:
        _move_out(path, new, spool_dir, run_at)
    except FileNotFoundError:
        raise
    except OSError:
        # Something is in the way, or the disk is full: uWSGI looks at the time as well.
        return spoolfile.reschedule(path, run_at)
    return new


def place(path: str, folder: str, spool_dir: str, run_at: float | None) -> None:
    """Accept a complete file, made elsewhere in the spool directory, where a job that is due then waits.

    Args:
        path: The file; its mtime is the due time.
        folder: The spool directory, or the folder of the job's priority in it.
        spool_dir: The spool directory.
        run_at: When the job is due, in unix seconds; ``None``: now.

    Raises:
        OSError: The file is gone, or cannot be renamed.
    """
    if run_at is None or run_at <= clock.now():
        os.rename(path, os.path.join(folder, os.path.basename(path)))
    else:
        new = os.path.join(folder_beside(folder, spool_dir), os.path.basename(path))
        _move_out(path, new, spool_dir, run_at)


def folder_beside(folder: str, spool_dir: str) -> str:
    """Return where jobs wait that are to run from ``folder``, the spool directory or a folder of a priority in it."""
    return _folder(spool_dir, "" if folder == spool_dir else os.path.basename(folder))


def _move_out(path: str, new: str, spool_dir: str, run_at: float) -> None:
    try:
        os.rename(path, new)
    except FileNotFoundError:
        _make_folder(spool_dir, os.path.dirname(new))
        os.rename(path, new)
    _announce(spool_dir, new, run_at)


def bring_forward(path: str, spool_dir: str) -> str:
    """Make a job due now, under another name, in the spool directory. The caller has claimed the file.

    Returns:
        The new path.

    Raises:
        OSError: The file is gone, or cannot be renamed.
    """
    new = os.path.join(_target_folder(spool_dir, path), os.path.basename(spoolfile.next_name(path)))
    os.utime(path, ns=spoolfile.ns_of(clock.now()))
    os.rename(path, new)
    return new


def has_mover(spool_dir: str) -> bool:
    """Return whether a living process moves the jobs of ``spool_dir`` in. Never raises ``OSError``."""
    # Not by its lock: to close a descriptor of the lock file would release a lock of this very process.
    fd = _open_to_announce(spool_dir)
    if fd is not None:
        os.close(fd)
    return fd is not None


def _folder(spool_dir: str, priority: str) -> str:
    return os.path.join(spool_dir, FOLDER, priority) if priority else os.path.join(spool_dir, FOLDER)


def _priority(path: str) -> str:
    """The name of the priority folder that holds the file; empty if it has no priority."""
    name = os.path.basename(os.path.dirname(path))
    return name if _is_priority(name) else ""


def _is_priority(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _is_name(path: bytes) -> bool:
    """Whether ``path`` is that of a delayed job's file in the folder, and leads nowhere else."""
    folder, _, name = path.rpartition(b"/")
    return name.startswith(os.fsencode(spoolfile.PREFIX)) and (not folder or folder.isdigit())


def _target_folder(spool_dir: str, path: str) -> str:
    """The folder from which uWSGI runs the delayed job in the file ``path``."""
    if not (priority := _priority(path)):
        return spool_dir
    folder = os.path.join(spool_dir, priority)
    files.make_folder(folder)
    return folder


def _make_folder(spool_dir: str, folder: str, *, fsync: bool = False) -> None:
    for path in dict.fromkeys((_folder(spool_dir, ""), folder)):
        files.make_folder(path)
        if fsync:
            files.fsync_folder(os.path.dirname(path))


# Announcing a new file


def _announce(spool_dir: str, path: str, run_at: float) -> None:
    """Tell the process that moves the jobs in, if there is one, of a new file. Never raises ``OSError``."""
    # Where nobody reads, nothing is lost: the process that begins to read the pipe reads the folder afterwards.
    if (fd := _open_to_announce(spool_dir)) is None:
        if spoolers.pids(spool_dir):
            call_spoolers(spool_dir)
    else:
        name = path[len(_folder(spool_dir, "")) + 1 :]
        try:
            with contextlib.suppress(OSError):  # the pipe is full, so that the reader reads the folder
                os.write(fd, b"%d %s\n" % (spoolfile.ns_of(run_at)[0], os.fsencode(name)))
        finally:
            os.close(fd)


def _open_to_announce(spool_dir: str) -> int | None:
    """Open the pipe for writing; ``None`` if no process reads it."""
    path = os.path.join(spool_dir, FOLDER, PIPE)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


# Moving


class Mover:
    """Moves the delayed jobs of a spool directory in when they are due, as long as no other process does so.

    Call :meth:`step` again and again, from one thread: once its seconds have passed, or :attr:`pipe` can be read.

    Args:
        spool_dir: The spool directory.
    """

    def __init__(self, spool_dir: str) -> None:
        self._spool_dir = spool_dir
        self._folder = _folder(spool_dir, "")
        self._lock: _Opened | None = None
        self._pipe: _Opened | None = None
        self._queue: list[Due] = []
        """The files that are due next: a heap."""
        self._horizon: int | None = None
        """When the first file is due that is not in the queue; ``None``: all are in it."""
        self._capacity = 0
        """How many bytes the pipe holds."""
        self._rest = b""
        """The beginning of a message whose end is not read yet."""
        self._folders = {self._folder}
        """The folder, and those of priorities in it."""
        self._changed: object = None
        """When the folder had last changed at the last check."""
        self._read_changed: object = None
        """When the folder had last changed before it was read."""
        self._read_at = 0.0
        self._next_check = 0.0
        self._is_active = False
        """Whether a message or a file was moved since the last check, which changes the folder."""

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
            self._move_due()
        except OSError as error:
            log.complain("the delayed jobs of %s cannot be moved: %s", self._spool_dir, error)
            return ELECTION
        soonest = CHECK if not self._queue else (self._queue[0][0] - _now()) / 1e9
        return min(CHECK, max(0.0, soonest))

    def close(self) -> None:
        """Let another process be elected. In a forked child: close what it has of its parent's."""
        for opened in (self._lock, self._pipe):
            if opened is not None:
                opened.close()
        self._lock = self._pipe = None

    def _is_elected(self) -> bool:
        if self._lock is not None and self._pipe is not None and not (self._lock.is_lost or self._pipe.is_lost):
            return True
        self.close()
        if not os.path.isdir(self._spool_dir):
            return False
        files.check_user(self._spool_dir)
        files.make_folder(self._folder)
        self._lock = _Opened(files.open_or_create(os.path.join(self._folder, LOCK)))
        if not _lock(self._lock.fd):
            self.close()
            return False
        try:
            self._pipe = _Opened(_open_pipe(os.path.join(self._folder, PIPE)))
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._pipe.fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            self._capacity = fcntl.fcntl(self._pipe.fd, fcntl.F_GETPIPE_SZ)
        except BaseException:
            self.close()
            raise
        self._rest = b""
        files.remove(os.path.join(self._spool_dir, spoolfile.TICKET))
        # With the pipe open: a file that is not listed now is announced there.
        self._read_folder()
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
            if due.isdigit() and _is_name(name) and (self._horizon is None or int(due) < self._horizon):
                heapq.heappush(self._queue, (int(due), os.fsdecode(name)))
        if len(self._queue) > 2 * WINDOW:
            self._cut()
        if len(data) > self._capacity // 2:
            self._read_folder()  # the pipe may have been full, so that messages are missing

    def _check(self) -> None:
        """Read the folder if it has changed without a message, or has not been read for some time."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK
        changed = self._last_change()
        unexplained = changed != self._changed and not self._is_active
        if unexplained or (changed != self._read_changed and now - self._read_at > REREAD):
            self._read_folder()
        self._changed, self._is_active = changed, False

    def _last_change(self) -> object:
        return [os.stat(folder).st_mtime_ns for folder in self._folders if os.path.isdir(folder)]

    def _read_folder(self) -> None:
        self._read_at, self._changed = time.monotonic(), self._last_change()
        # One more, whose due time is the horizon.
        self._queue, self._horizon = heapq.nsmallest(WINDOW + 1, _entries(self._folder)), None
        self._cut()
        folders = {self._folder, *(os.path.dirname(os.path.join(self._folder, name)) for _, name in self._queue)}
        if folders != self._folders:
            self._folders = folders
            self._changed = self._last_change()
        self._read_changed = self._changed

    def _cut(self) -> None:
        if len(self._queue) > WINDOW:
            self._queue.sort()
            self._horizon = self._queue[WINDOW][0]
            del self._queue[WINDOW:]

    def _move_due(self) -> None:
        moved = 0
        for _ in range(AT_ONCE):
            if not self._queue and self._horizon is not None:
                self._read_folder()
            if not self._queue or self._queue[0][0] > _now():
                break
            _, name = heapq.heappop(self._queue)
            moved += self._move(name)
        if moved:
            self._is_active = True
            # One job wakes one spooler.
            (spoolers.wake if moved == 1 else spoolers.wake_all)(self._spool_dir)

    def _move(self, name: str) -> bool:
        path = os.path.join(self._folder, name)
        try:
            due = move_in(path, self._spool_dir)
        except OSError as error:
            log.complain("the delayed job %s cannot be moved to the spool directory: %s", path, error)
            due = _now() + 10**9
        if due:
            heapq.heappush(self._queue, (due, name))
        return not due


def move_in(path: str, spool_dir: str) -> int:
    """Move a delayed job to where spoolers take it, if it is due.

    Args:
        path: The file, in the folder of delayed jobs.
        spool_dir: The spool directory.

    Returns:
        When the job is due, in unix nanoseconds, if that is later than now; else 0.

    Raises:
        OSError: The file cannot be moved. That it is gone is no error.
    """
    try:
        about = os.lstat(path)
        if not stat.S_ISREG(about.st_mode) or not os.path.basename(path).startswith(spoolfile.PREFIX):
            return 0
        if about.st_mtime_ns > _now():
            return about.st_mtime_ns
        if (damage := _damage(path)) is not None:
            moved_to = dead.quarantine(path, spool_dir, reason=damage)
            log.error("a spool file that cannot be read was moved to %s: %s", moved_to, damage)
            return 0
        if about.st_mtime_ns % 10**9 < COARSE:
            # It is due: its time no longer decides anything but whether uWSGI sees it now.
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns - COARSE))
        target = os.path.join(_target_folder(spool_dir, path), os.path.basename(path))
        while os.path.lexists(target):
            target = spoolfile.next_name(target)  # a rename onto a running job's name would replace its locked file
        os.rename(path, target)
    except FileNotFoundError:
        pass  # cancelled, or moved by another process
    return 0


def _damage(path: str) -> str | None:
    """Why uWSGI would delete the file without running it; ``None`` if it would not, or it cannot be read here."""
    try:
        data = spoolfile.peek(path, 4 + packet.LIMIT)
    except OSError:
        return None
    try:
        if data is not None:
            packet.load(data)
    except DecodeError as error:
        return str(error)
    return None


def move_all_due(spool_dir: str) -> bool:
    """Move the jobs in that are due, if no process is elected to do so: spoolers do it at their scans. Never raises.

    A spooler is not elected itself: a long job would keep it from moving others.

    Returns:
        Whether any job was due.
    """
    if has_mover(spool_dir):
        return False
    try:
        due = [name for time, name in _entries(_folder(spool_dir, "")) if time <= _now()]
    except OSError:
        return False  # there is no such folder yet
    for name in due:
        path = os.path.join(spool_dir, FOLDER, name)
        try:
            move_in(path, spool_dir)
        except OSError as error:
            log.complain("the delayed job %s cannot be moved to the spool directory: %s", path, error)
    return bool(due)


# Under uWSGI, a spooler executes Python only for a file. Where no process can be elected (uWSGI without threads, or
# without HTTP processes), a file of no job makes it look at the delayed jobs at each scan.


def call_spoolers(spool_dir: str) -> None:
    """Have the spoolers of uWSGI move delayed jobs in, until a process is elected or none is left. Never raises.

    Nothing happens if there are no delayed jobs.
    """
    with contextlib.suppress(OSError):
        # Asked after the job was written. A spooler removes the ticket and then asks again: see answer().
        if _has_delayed(spool_dir) and not os.path.lexists(os.path.join(spool_dir, spoolfile.TICKET)):
            spoolfile.write(spool_dir, FOLDER, packet.dump(packet.Packet({MARKER: b"1"})))


def answer(spool_dir: str) -> None:
    """Do what the ticket asks a spooler of uWSGI to do. Never raises ``OSError``."""
    ticket, asked = os.path.join(spool_dir, spoolfile.TICKET), _asked.get()
    if has_mover(spool_dir):
        files.remove(ticket)
    elif time.monotonic() >= asked.get(spool_dir, 0.0) + TICKET_PAUSE:
        asked[spool_dir] = time.monotonic()
        if move_all_due(spool_dir):
            spoolers.wake_all(spool_dir)
        if not _has_delayed(spool_dir):
            files.remove(ticket)
            call_spoolers(spool_dir)


_asked: process.PerProcess[dict[str, float]] = process.PerProcess(dict)
"""When this spooler last looked at the delayed jobs of a directory, on the monotonic clock."""


def _has_delayed(spool_dir: str) -> bool:
    try:
        return next(_entries(_folder(spool_dir, "")), None) is not None
    except OSError:
        return False


def _now() -> int:
    return spoolfile.ns_of(clock.now())[0]


def _entries(folder: str, priority: str = "") -> Iterator[Due]:
    """Yield when each delayed job is due, and its path in the folder. Raises ``OSError``."""
    folders = []
    with os.scandir(os.path.join(folder, priority)) as entries:
        for entry in entries:
            if entry.name.startswith(spoolfile.PREFIX):
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False).st_mtime_ns, os.path.join(priority, entry.name)
            elif not priority and _is_priority(entry.name) and entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
    for name in folders:
        yield from _entries(folder, name)


class _Opened:
    """A descriptor that outlives a job: a task may close it, and open another file under its number."""

    def __init__(self, fd: int) -> None:
        try:
            # uWSGI opens /dev/null as descriptor 0 after the fork.
            self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
        finally:
            os.close(fd)
        self._file = process.file_of(self.fd)

    @property
    def is_lost(self) -> bool:
        return process.file_of(self.fd) != self._file

    def close(self) -> None:
        if not self.is_lost:
            os.close(self.fd)


def _lock(fd: int) -> bool:
    # fcntl(), not flock(): a process that a request or a task forks does not inherit the lock, and so cannot keep it
    # when the elected process is dead.
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
        files.give(fd, os.path.dirname(path))
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
