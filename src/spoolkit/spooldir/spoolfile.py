"""Spool files, without uWSGI: write, claim, list, reschedule, set aside.

Inside a spooler process never open a spool file: closing any descriptor of it drops the lock that uWSGI's C code
holds (fcntl locks belong to the process). What works by path alone (:func:`finish`, :func:`reschedule`)
is safe there; :func:`claim` is for every other process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from itertools import islice

from spoolkit.errors import DecodeError
from spoolkit.system import clock, files

PREFIX = "uwsgi_spoolfile_on_"
"""What uWSGI looks for: any other name is invisible to it."""

TEMPORARY = "tmp_"

MAX_SIZE = 1 << 30
"""Bytes that a spool file may take: uWSGI reads it whole, and one without so much memory ends, again and again."""

MAX_NAMES_AHEAD = 6
"""Names after a known one that are tried: a job gets two with each attempt while the store is broken."""

COMMON_PRIORITIES = range(100)
"""Priorities whose folders are tried before any is looked for."""

_FOLDERS = frozenset({"checkpoints", "dead", "running", "spoolers", "threads", "waiting"})

_executing: set[str] = set()
"""The job that this process executes, if any: closed here, its file would be free for others to lock."""

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME = re.compile(PREFIX + r"([0-9a-f]{32})(?:\.\d{1,9}(?:~\d{1,9})?)*", re.ASCII)
_SUFFIX = re.compile(r"\.(\d{1,9})(?:~(\d{1,9}))?$", re.ASCII)


def write(directory: str, name: str, data: bytes, *, run_at: float | None = None, fsync: bool = False) -> str:
    """Make ``data`` a spool file, whole or not at all, and return its path.

    ``name`` is what follows uWSGI's prefix, ``run_at`` unix time in seconds (``None``: at once). With ``fsync`` it is
    on the disk when this returns. Raises ``OSError``; then there is no file.
    """
    temporary = os.path.join(directory, f"{TEMPORARY}{name}")
    path = os.path.join(directory, f"{PREFIX}{name}")
    fd = files.create(temporary)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if run_at is not None:
                # Before the rename: uWSGI itself sets it after the data, and now and then runs such a job at once.
                os.utime(fd, ns=ns_of(run_at))
            if fsync:
                os.fsync(fd)
        os.rename(temporary, path)
        if fsync:
            _fsync_directory(directory)
    except BaseException:
        for leftover in (temporary, path):
            files.remove(leftover)
        raise
    return path


@contextlib.contextmanager
def claim(path: str) -> Iterator[int | None]:
    """Hold the lock that a spooler takes, and yield a descriptor of the file, or ``None`` where it cannot be had.

    Only within it may a process other than a spooler read, unlink, rename or touch the file. Never use it in a process
    that is a uWSGI spooler, or twice at once on one file in one process. A task that asks for the file of its own job
    gets ``None``.
    """
    if id_of(os.path.basename(path)) in _executing:
        yield None
        return
    try:
        fd = files.open_regular(path, os.O_RDWR, linked=True)
    except OSError:
        yield None
        return
    try:
        yield fd if _lock(fd) and _is_still(fd, path) else None
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(fd: int, path: str) -> bool:
    # Between open and lock the file may have been finished, or given another name.
    opened = os.fstat(fd)
    try:
        named = os.lstat(path)
    except OSError:
        return False
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


@contextlib.contextmanager
def executing(id: str) -> Iterator[None]:
    """Within it, this process executes the job ``id``, whose file is locked: its task cannot open that file here.

    fcntl locks belong to the process: a task that opened the file of its own job, to look at the job or to cancel it,
    would drop the lock with the first descriptor that it closes, and another process would run the job as well.
    """
    _executing.add(id)
    try:
        yield
    finally:
        _executing.discard(id)


def read(fd: int) -> bytes:
    """All bytes of a claimed file. Raises :class:`DecodeError` where they are more than any job has."""
    if (size := os.fstat(fd).st_size) > MAX_SIZE:
        raise DecodeError(f"the file has {size} bytes; a job has at most {MAX_SIZE}")
    # closefd=False: closing even a duplicate of the descriptor would drop the lock.
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def peek(path: str, size: int = MAX_SIZE) -> bytes | None:
    """The first ``size`` bytes of a spool file of spoolkit's, which never change; ``None`` if it is gone, or no job's.

    No file of another library: uWSGI writes those in place, under a lock that opening them here might drop. Raises
    ``OSError`` where only the directory's owner may read it.
    """
    id = id_of(os.path.basename(path))
    if id is None or id in _executing:
        return None
    try:
        fd = files.open_regular(path, linked=True)
    except FileNotFoundError:
        return None
    except PermissionError:
        if os.geteuid() == files.owner(os.path.dirname(path))[0]:
            return None  # a stranger's file in a directory of our own: it never runs, and hides no other
        raise
    with open(fd, "rb") as file:
        return file.read(size) if os.fstat(fd).st_size <= MAX_SIZE else None


def find(directory: str, id: str, known: str | None) -> str | None:
    """The path of the job's file in this very folder, under its first name, ``known`` or the one after that.

    Raises ``OSError`` where the folder may not be looked at.
    """
    names = [f"{PREFIX}{id}"] if known is None else [f"{PREFIX}{id}", known, _next(known)]
    paths = (os.path.join(directory, name) for name in names)
    return next(filter(files.is_regular, paths), None)


def locate(directory: str, id: str, known: str | None = None, *, most: int | None = None) -> str | None:
    """The path of the job's file, waiting or running.

    Args:
        directory: The spool directory.
        id: The job's.
        known: A name that the file has had.
        most: How many entries are read; ``None``: all. Where there are more, a file is found by its first name, by
            ``known`` and by the names that follow these.

    Returns:
        The path, or ``None`` where there is none.

    Raises:
        OSError: The directory may not be looked at.
    """
    if path := find(directory, id, known):
        return path
    if not is_id(id):
        return None  # no other name leads to it, and a visitor may ask for anything: the directory may hold 100,000
    if most is not None and (path := _guess(directory, id, known)):
        return path
    return _search(directory, id, known, most)


def _guess(directory: str, id: str, known: str | None) -> str | None:
    """The path of the job's file, if it has one of the names that follow, or a common priority."""
    for name in {f"{PREFIX}{id}", known or f"{PREFIX}{id}"}:
        base, names, counted = _numbers(os.path.join(directory, name))
        for step in range(1, MAX_NAMES_AHEAD + 1):
            for attempts in range(step + 1):
                if files.is_regular(path := _name(base, names + step, counted + attempts)):
                    return path
    folders = (os.path.join(directory, str(priority)) for priority in COMMON_PRIORITIES)
    return next(filter(None, (find(folder, id, known) for folder in folders)), None)


def _search(directory: str, id: str, known: str | None, most: int | None) -> str | None:
    """The path of the job's file under any name, in ``directory`` or a priority folder of it."""
    folders = []
    for entry in islice(_walk(directory), most):
        if entry.name.startswith(PREFIX):
            if entry.name.startswith(id, len(PREFIX)) and id_of(entry.name) == id and _is_file(entry):
                return entry.path
        elif _is_priority(entry):
            folders.append(entry.path)
    return next(filter(None, (find(folder, id, known) for folder in folders)), None)


def _walk(directory: str) -> Iterator[os.DirEntry[str]]:
    """What lies in ``directory``, then what lies in its priority folders."""
    folders = []
    with os.scandir(directory) as entries:
        for entry in entries:
            yield entry
            if _is_priority(entry):
                folders.append(entry.path)
    for folder in folders:
        yield from _walk(folder)


def is_due(path: str) -> bool:
    """Whether the file is there and its time has come. uWSGI looks at the time only before it has the lock."""
    try:
        return os.lstat(path).st_mtime_ns <= ns_of(clock.now())[0]
    except FileNotFoundError:
        return False


def finish(path: str) -> None:
    """The job is done: its file goes away."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def reschedule(path: str, run_at: float) -> str:
    """Let the job run again, not before ``run_at`` (unix time); returns the new path.

    The name changes with the time: a spooler that saw the old time looks, once it has the lock, only at the name.
    """
    os.utime(path, ns=ns_of(run_at))
    new = _next(path)
    os.rename(path, new)
    return new


def count_attempt(path: str) -> tuple[str, int]:
    """Count an attempt in the file's name; returns the new path, and how many attempts were counted so."""
    new = _next(path, 1)
    os.rename(path, new)
    return new, _numbers(new)[2]


def attempts_in_filename(path: str) -> int:
    """How many attempts were counted in the file's name."""
    return _numbers(path)[2]


def _next(path: str, attempts: int = 0) -> str:
    """The name after this one: with the number of the names before it, and of the attempts counted in names."""
    base, names, counted = _numbers(path)
    return _name(base, names + 1, counted + attempts)


def _name(base: str, names: int, counted: int) -> str:
    return f"{base}.{names}" + (f"~{counted}" if counted else "")


def _numbers(path: str) -> tuple[str, int, int]:
    found = _SUFFIX.search(path)
    return (path[: found.start()], int(found[1]), int(found[2] or 0)) if found else (path, 0, 0)


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of a job's id: 32 hex digits."""
    return _ID.fullmatch(text) is not None


def id_of(name: str) -> str | None:
    """The job whose file is called ``name``; ``None`` where it is not one of spoolkit's."""
    found = _NAME.fullmatch(name)
    return found[1] if found else None


def pending(directory: str, most: int | None = None) -> list[str]:
    """The paths of the spool files in ``directory``, priorities (folders of digits) first, then by name.

    With ``most``, no more are looked at than the first so many that the system names. Raises ``OSError``.
    """
    found, folders = [], []
    with os.scandir(directory) as entries:
        for entry in entries:
            if _is_file(entry):
                found.append(entry.path)
            elif _is_priority(entry):
                folders.append(entry.path)
            if len(found) == most:
                break
    paths: list[str] = []
    for folder in sorted(folders, key=_priority):
        if most is not None and len(paths) >= most:
            break
        paths += pending(folder, None if most is None else most - len(paths))
    return (paths + sorted(found))[:most]


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(PREFIX) and entry.is_file(follow_symlinks=False)


def is_spool_directory(path: str) -> bool:
    """Whether ``path`` holds what only a spool directory does: its spoolers' folder, or jobs. Raises ``OSError``."""
    if os.path.isdir(os.path.join(path, files.SPOOLERS)):
        return True
    with os.scandir(path) as entries:
        return any(map(_is_file, entries))


def may_become_spool_directory(path: str) -> bool:
    """Whether ``path`` is a spool directory, or holds nothing but hidden files and what a site puts into one.

    A site may have put something there before its first spooler comes: a job that is just being written, the store.

    Raises:
        OSError: The directory cannot be read.
    """
    return is_spool_directory(path) or all(map(_may_be_of_a_site, os.listdir(path)))


def _may_be_of_a_site(name: str) -> bool:
    return name.startswith((".", PREFIX, TEMPORARY, "spoolkit.db")) or name in _FOLDERS or name.isdigit()


def priority_folders(directory: str) -> list[str]:
    """The folders of jobs with a priority, the most urgent first."""
    with os.scandir(directory) as entries:
        folders = [entry.path for entry in entries if _is_priority(entry)]
    return sorted(folders, key=_priority)


def _priority(folder: str) -> int:
    return int(os.path.basename(folder))


def _is_priority(entry: os.DirEntry[str]) -> bool:
    return entry.name.isascii() and entry.name.isdigit() and entry.is_dir(follow_symlinks=False)


def sweep(directory: str) -> None:
    """Remove temporary files whose writer died before the rename: nothing was accepted there."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY):
                with contextlib.suppress(OSError):
                    # The time of change, not of content: the latter may already stand at the job's run_at.
                    if entry.stat(follow_symlinks=False).st_ctime < clock.now() - files.STRAY_AGE:
                        os.unlink(entry.path)
            elif _is_priority(entry):
                sweep(entry.path)


def ns_of(time: float) -> tuple[int, int]:
    """The time as ``os.utime`` takes it twice, in nanoseconds: never before ``time``."""
    # In whole numbers: as a float, nanoseconds of today come in steps of 256 and may fall before their time.
    numerator, denominator = float(time).as_integer_ratio()
    whole = -(-numerator * 10**9 // denominator)
    return whole, whole


def _fsync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
