"""Which jobs are not due yet, and how does each of them come into the spool directory?

They wait in ``later/``, where uWSGI does not look, so that no scan pays for them. The folder mirrors the spool
directory: the same names, the same folders of priorities, and the mtime of a file is its due time. One rename moves a
job in. Who does that when it is due, and learns of new files from the named pipe in the folder, is in ``mover.py``.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Generator

from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.spooldir import dead, spoolers, spoolfile
from spoolkit.system import clock, files, log

FOLDER = spoolfile.LATER

PIPE = "news"
"""The named pipe in the folder by which the process that moves the jobs in hears of new files."""

MARKER = b"spoolkit_later"
"""The key in the packet of the ticket."""

_COARSE = int(spoolfile.COARSE * 1e9)

REPLACE_TIME = 60.0
"""Seconds for which a job that is being replaced is put off: nobody moves it in before it has its new content. Only a
kill in between makes it wait that long."""

Due = tuple[int, str]
"""When a file is due, in unix nanoseconds, and its path in the folder."""


def write(
    spool_dir: str,
    name: str,
    data: bytes,
    *,
    run_at: float,
    priority: int | None = None,
    fsync: bool = False,
    exclusive: bool = False,
) -> str:
    """Write the file of a job that is not due yet, whole or not at all: afterwards the job is accepted.

    Args:
        spool_dir: The spool directory.
        name: The name of the file, without uWSGI's prefix.
        data: The content.
        run_at: When the job is due, in unix seconds.
        priority: The priority of the job; ``None``: it has none.
        fsync: Whether the file must be on the disk when this function returns.
        exclusive: As for :func:`spoolfile.write`. The job may have been moved in by then, or be over: see
            :func:`~spoolkit.store.existence.exists`.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: ``exclusive``, and the name exists here.
        OSError: As for :func:`spoolfile.write`.
    """
    folder = _folder(spool_dir, "" if priority is None else str(priority))
    try:
        path = spoolfile.write(folder, name, data, run_at=run_at, fsync=fsync, exclusive=exclusive)
    except FileNotFoundError:
        _make_folder(spool_dir, folder, fsync=fsync)
        path = spoolfile.write(folder, name, data, run_at=run_at, fsync=fsync, exclusive=exclusive)
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
    folder = _folder(spool_dir, _priority(path, spool_dir))
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


def holds(path: str, spool_dir: str) -> bool:
    """Return whether ``path`` is the file of a delayed job."""
    return path.startswith(os.path.join(spool_dir, FOLDER, ""))


def bring_forward(path: str, spool_dir: str, *, was_due: bool = False) -> str:
    """Make a job due now, under another name, in the spool directory. The caller has claimed the file.

    Args:
        path: The file.
        spool_dir: The spool directory.
        was_due: Whether it has been due before, and keeps that time.

    Returns:
        The new path.

    Raises:
        OSError: The file is gone, or cannot be renamed.
    """
    new = os.path.join(_target_folder(spool_dir, path), os.path.basename(spoolfile.next_name(path)))
    if not was_due:
        os.utime(path, ns=spoolfile.ns_of(spoolfile.due_now()))
    os.rename(path, new)
    return new


def replace(path: str, spool_dir: str, data: bytes, *, run_at: float | None, fsync: bool = False) -> str:
    """Give a job that waits another content and another due time, under another name. The caller has claimed the file.

    At each moment there is one file: with the old content, or with the new one.

    Args:
        path: The file.
        spool_dir: The spool directory.
        data: The new content.
        run_at: When the job is due, in unix seconds; ``None``: now.
        fsync: Whether the new content must be on the disk when this function returns.

    Returns:
        The new path.

    Raises:
        FileNotFoundError: The file has become due, and was moved in; nothing else was changed.
        OSError: The new content could not be written; the job has the old one.
    """
    due = spoolfile.due_now() if run_at is None else run_at
    folder = _folder(spool_dir, _priority(path, spool_dir))
    name = os.path.basename(spoolfile.next_name(path))
    new, temporary = os.path.join(folder, name), os.path.join(folder, f"{spoolfile.TEMPORARY}{name}")
    _make_folder(spool_dir, folder, fsync=fsync)
    files.remove(temporary)  # of a caller that was killed
    try:
        spoolfile.write_unnamed(temporary, data, run_at=due, fsync=fsync)
        # Into this folder first, where no spooler looks. A spooler that has opened the old file, but has not locked it
        # yet, would run the old content if its name came back; and the process that moves jobs in takes no lock.
        os.utime(path, ns=spoolfile.ns_of(max(due, clock.now() + REPLACE_TIME)))
        os.rename(path, new)
        os.rename(temporary, new)
    except BaseException:
        files.remove(temporary)
        raise
    if fsync:
        files.fsync_folder(folder)
    if run_at is not None:
        _announce(spool_dir, new, run_at)
        return new
    with contextlib.suppress(FileNotFoundError):  # it was moved in by the process that does so
        new = bring_forward(new, spool_dir)
        if fsync:
            files.fsync_folder(os.path.dirname(new))
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


def _priority(path: str, spool_dir: str) -> str:
    """The name of the priority folder that holds the file; empty if it has no priority."""
    folder = os.path.dirname(path)
    name = os.path.basename(folder)
    # The name of a spool directory may be a number as well.
    return name if _is_priority(name) and folder != spool_dir else ""


def _is_priority(name: str) -> bool:
    return name.isascii() and name.isdigit()


def is_name(path: bytes) -> bool:
    """Whether ``path`` is that of a delayed job's file in the folder, and leads nowhere else."""
    folder, _, name = path.rpartition(b"/")
    return name.startswith(os.fsencode(spoolfile.PREFIX)) and (not folder or folder.isdigit())


def _target_folder(spool_dir: str, path: str) -> str:
    """The folder from which uWSGI runs the delayed job in the file ``path``."""
    if not (priority := _priority(path, spool_dir)):
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
        if about.st_mtime_ns > now():
            return about.st_mtime_ns
        if (damage := _damage(path)) is not None:
            moved_to = dead.quarantine(path, spool_dir, reason=damage)
            log.error("a spool file that cannot be read was moved to %s: %s", moved_to, damage)
            return 0
        if about.st_mtime_ns % 10**9 < _COARSE:
            # It is due: its time no longer decides anything but whether uWSGI sees it now.
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns - _COARSE))
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
        data = spoolfile.peek(path, packet.HEAD_SIZE)
    except OSError:
        return None
    try:
        if data is not None:
            packet.load(data)
    except DecodeError as error:
        return str(error)
    return None


# Under uWSGI, a spooler executes Python only for a file. Where no process can be elected (uWSGI without threads, or
# without HTTP processes), a file of no job makes it look at the delayed jobs at each scan.


def call_spoolers(spool_dir: str) -> None:
    """Have the spoolers of uWSGI move delayed jobs in, until a process is elected or none is left. Never raises.

    Nothing happens if there are no delayed jobs.
    """
    with contextlib.suppress(OSError):
        # Asked after the job was written. A spooler removes the ticket and then asks again: see mover.answer().
        if has_delayed(spool_dir) and not os.path.lexists(os.path.join(spool_dir, spoolfile.TICKET)):
            _write_ticket(spool_dir)


def _write_ticket(spool_dir: str) -> None:
    # Under a name of this thread's own: two that write at once must not remove the file of each other.
    writer = f"{os.getpid()}-{threading.get_native_id()}"
    temporary = os.path.join(spool_dir, f"{spoolfile.TEMPORARY}{FOLDER}.{writer}")
    files.remove(temporary)  # left by a killed process with the same pid
    try:
        spoolfile.write_unnamed(temporary, packet.dump(packet.Packet({MARKER: b"1"})))
        os.rename(temporary, os.path.join(spool_dir, spoolfile.TICKET))
    except BaseException:
        files.remove(temporary)
        raise


def has_delayed(spool_dir: str) -> bool:
    """Return whether there are delayed jobs. Never raises ``OSError``."""
    try:
        return next(entries(spool_dir), None) is not None
    except OSError:
        return False


def entries(spool_dir: str, priority: str = "") -> Generator[Due]:
    """Yield when each delayed job is due, and its path in the folder.

    Args:
        spool_dir: The spool directory.
        priority: Only those with this priority; empty: all.

    Raises:
        OSError: The folder cannot be read.
    """
    folders = []
    with os.scandir(_folder(spool_dir, priority)) as found:
        for entry in found:
            name = entry.name
            if name.startswith(spoolfile.PREFIX):
                try:
                    yield entry.stat(follow_symlinks=False).st_mtime_ns, os.path.join(priority, name)
                except FileNotFoundError:
                    continue  # cancelled meanwhile
            elif not priority and _is_priority(name) and entry.is_dir(follow_symlinks=False):
                folders.append(name)
    for name in folders:
        yield from entries(spool_dir, name)


def now() -> int:
    """The time as in :data:`Due`."""
    return spoolfile.ns_of(clock.now())[0]
