"""How are spool files written, claimed, listed, found and rescheduled? Without uWSGI.

Never open a spool file in a spooler process: closing any of its descriptors releases the lock that uWSGI's C code holds
(fcntl locks belong to the process). Functions that use the path alone (:func:`finish`, :func:`reschedule`) are safe
there; :func:`claim` and :func:`claim_to_run` are for every other process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from itertools import islice

from spoolkit import registry
from spoolkit.errors import DecodeError
from spoolkit.job import NORMAL_PRIORITY
from spoolkit.spooldir import places
from spoolkit.system import clock, files, locks

PREFIX = "uwsgi_spoolfile_on_"
"""The names that uWSGI looks for begin like this; it ignores all others."""

TEMPORARY = "tmp_"
"""The name of a spool file begins like this while it is being written."""

MAX_SIZE = 1 << 30
"""The greatest size of a spool file in bytes: uWSGI reads it whole, and a spooler without the memory dies each time."""

COARSE = 0.05
"""Seconds by which uWSGI's clock may be behind that of files, which Linux makes finer since 6.13. uWSGI compares whole
seconds: at the beginning of one, it would leave a new file for its next scan."""

MAX_NAMES_AHEAD = 6
"""How many of the names after a known one are tried: a job gets two per attempt while the store is unavailable."""

_COMMON_PRIORITIES = frozenset({NORMAL_PRIORITY, *range(100)})
"""Priorities whose folders are tried before the directory is searched, besides those of declared tasks."""

LATER = "later"

PARKED = "parked"
"""The folder of jobs that wait for something other than a time: see ``parked.py``."""
"""The folder of jobs that are not due yet, where uWSGI does not look. Its files are named as in the spool directory."""

TICKET = f"{PREFIX}{LATER}"
"""The file by which uWSGI's spoolers look after delayed jobs; it is no job. See ``mover.py``."""

_executing: set[str] = set()
"""The id of the job that this process is running. To open and close its file here would release uWSGI's lock on it."""

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME = re.compile(PREFIX + r"([0-9a-f]{32})(?:\.\d{1,9}(?:~\d{1,9})?)*", re.ASCII)
_SUFFIX = re.compile(r"\.(\d{1,9})(?:~(\d{1,9}))?$", re.ASCII)


def write(
    folder: str,
    name: str,
    data: bytes,
    *,
    run_at: float | None = None,
    fsync: bool = False,
    owned_by: tuple[int, int] | None = None,
    exclusive: bool = False,
) -> str:
    """Write a spool file, whole or not at all.

    Args:
        folder: The spool directory, or the folder of a priority in it.
        name: The name of the file, without uWSGI's prefix.
        data: The content.
        run_at: When the job is due, in unix seconds; ``None``: now.
        fsync: Whether the file must be on the disk when this function returns.
        owned_by: As for :func:`~spoolkit.system.files.create`.
        exclusive: Whether the name may exist already, as one that follows from something else than chance. A file that
            has it is left alone: it may be that of a running job.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: ``exclusive``, and the name exists.
        OSError: The file could not be written; then there is none, unless ``exclusive``: then there may be one.
    """
    path = f"{folder}/{PREFIX}{name}"
    # Of several processes that write the same name at once, each has a temporary name of its own.
    temporary = f"{folder}/{TEMPORARY}{name}" + (f".{os.urandom(8).hex()}" if exclusive else "")
    try:
        write_unnamed(temporary, data, run_at=run_at, fsync=fsync, owned_by=owned_by)
        if exclusive:
            # A rename would put this file in the place of one that a spooler has locked, and the job would run twice.
            os.link(temporary, path)
            files.remove(temporary)
        else:
            os.rename(temporary, path)
        if fsync:
            files.fsync_folder(folder)
    except BaseException:
        for leftover in (temporary,) if exclusive else (temporary, path):
            files.remove(leftover)
        raise
    return path


def write_unnamed(
    path: str,
    data: bytes,
    *,
    run_at: float | None = None,
    fsync: bool = False,
    owned_by: tuple[int, int] | None = None,
) -> None:
    """Write a file that a rename will make a spool file.

    Args:
        path: The path, under a name or in a folder that uWSGI ignores.
        data: As for :func:`write`.
        run_at: As for :func:`write`.
        fsync: As for :func:`write`.
        owned_by: As for :func:`write`.

    Raises:
        OSError: The file exists already, or could not be written and may be incomplete.
    """
    fd = files.create(path, owned_by)
    try:
        files.write_all(fd, data)
        if run_at is not None:
            # Before the rename: uWSGI itself sets the time after the data, and sometimes runs such a job at once.
            os.utime(fd, ns=ns_of(run_at))
        elif clock.now() % 1 < COARSE:
            os.utime(fd, ns=ns_of(due_now()))
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def claim(path: str) -> Iterator[int | None]:
    """Hold a lock on the file, which excludes spoolers and other callers, threads of this process among them.

    A process that is not a spooler may read, unlink, rename or touch the file only within this context manager. Never
    use it in a uWSGI spooler.

    Yields:
        A descriptor of the file; ``None`` if the file is gone, somebody else has the lock, or the file is that of the
        job that this process is running.
    """
    if (fd := _open_to_lock(path)) is None:
        yield None
        return
    with locks.LockedFile(fd):
        yield fd if locks.try_lock(fd) and _is_still(fd, path) else None


class claim_to_run:  # noqa: N801 - a function would be a generator, whose frames take three times as long
    """Hold the lock that a spooler takes on the file of the job that it runs; else as :func:`claim`.

    It belongs to this process: one that the task forks does not keep the job locked when this process is dead. Never
    use it twice at the same time on one file in one process.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> int | None:
        self._fd = fd = _open_to_lock(self._path)
        try:
            return fd if fd is not None and _lock(fd) and _is_still(fd, self._path) else None
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)


def _open_to_lock(path: str) -> int | None:
    if id_of(path.rpartition("/")[2]) in _executing:
        return None
    try:
        return files.open_regular(path, os.O_RDWR, linked=True)
    except OSError:
        return None


def _lock(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(fd: int, path: str) -> bool:
    # Between open and lock, another process may have removed or renamed the file.
    opened = os.fstat(fd)
    try:
        named = os.lstat(path)
    except OSError:
        return False
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


class executing:  # noqa: N801 - a function would be a generator, whose frames take three times as long
    """Keep this process from opening the file of the job ``id``, which is locked, while it runs the job.

    fcntl locks belong to the process: a task that opened the file of its own job, to look at the job or to cancel it,
    would release the lock when it closes the descriptor, and another process would run the job as well.
    """

    def __init__(self, id: str) -> None:
        self._id = id

    def __enter__(self) -> None:
        _executing.add(self._id)

    def __exit__(self, *_: object) -> None:
        _executing.discard(self._id)


def read(fd: int, most: int = MAX_SIZE) -> bytes:
    """Read the first ``most`` bytes of a file. Raises :class:`DecodeError` if it is larger than :data:`MAX_SIZE`."""
    if (size := os.fstat(fd).st_size) > MAX_SIZE:
        raise DecodeError(f"the file has {size} bytes; a job has at most {MAX_SIZE}")
    data, at, size = b"", 0, min(size, most)
    while at < size:
        part = os.pread(fd, size - at, at)
        if not part:
            break
        data, at = data + part, at + len(part)
    return data


def peek(path: str, size: int = MAX_SIZE) -> bytes | None:
    """Read the beginning of a spool file without its lock: the content of spoolkit's own files never changes.

    Files of other libraries are not read: uWSGI writes them in place, under a lock that might be released here.

    Args:
        path: The path of the file.
        size: How many bytes are read at most.

    Returns:
        The bytes; ``None`` if the file is gone, or not a job of spoolkit.

    Raises:
        OSError: This user may not read the file, but the owner of the directory may.
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
            return None  # another user's file in a directory of our own: it never runs, and must not hide other jobs
        raise
    try:
        return read(fd, size)
    except DecodeError:
        return None
    finally:
        os.close(fd)


def find(folder: str, id: str, known: str | None) -> str | None:
    """Find the file of a job in one folder by its likely names, without reading the folder.

    Args:
        folder: The spool directory, or the folder of a priority in it.
        id: The id of the job.
        known: A name that the file has had; ``None``: not known.

    Returns:
        The path of the file under its first name, under ``known`` or under the name after that; ``None`` if there is no
        such file.

    Raises:
        OSError: This user may not look into the folder.
    """
    names = [f"{PREFIX}{id}"] if known is None else [f"{PREFIX}{id}", known, _next(known)]
    paths = (os.path.join(folder, name) for name in names)
    return next(filter(files.is_regular, paths), None)


def locate(spool_dir: str, id: str, known: str | None = None, *, max_entries: int | None = None) -> str | None:
    """Find the file of a job that is waiting or running.

    Args:
        spool_dir: The spool directory.
        id: The id of the job.
        known: A name that the file has had; ``None``: not known.
        max_entries: How many entries of the directory are read at most; ``None``: all. If there are more, the file is
            found under its first name, under ``known`` and under the names that follow these.

    Returns:
        The path of the file; ``None`` if there is none.

    Raises:
        OSError: This user may not look into the directory.
    """
    # In this order: a job that is moved in meanwhile is found in the last folder.
    folders = [*_waiting_folders(spool_dir), spool_dir]
    for folder in folders:
        if path := find(folder, id, known):
            return path
    if not is_id(id):
        return None  # its file can have no other name; do not read 100,000 entries for an id that a visitor made up
    for folder in folders:
        if max_entries is not None and (path := _guess(folder, id, known)):
            return path
        with _may_be_missing(folder, spool_dir):
            if path := _search(folder, id, known, max_entries, in_place=folder != spool_dir):
                return path
    return None


def _waiting_folders(spool_dir: str) -> list[str]:
    """The folders of the spool directory with jobs that wait, apart from those that uWSGI scans. They may be missing"""
    return [os.path.join(spool_dir, name) for name in places.WAITING]


@contextlib.contextmanager
def _may_be_missing(folder: str, spool_dir: str) -> Iterator[None]:
    """Accept that a folder in the spool directory is not there: its first file makes it."""
    try:
        yield
    except FileNotFoundError:
        if folder == spool_dir:
            raise


def _guess(spool_dir: str, id: str, known: str | None) -> str | None:
    """Return the path of the job's file if it has one of the names that follow, or a common priority."""
    for name in {f"{PREFIX}{id}", known or f"{PREFIX}{id}"}:
        stem, earlier_names, attempts = _split(os.path.join(spool_dir, name))
        for new_names in range(1, MAX_NAMES_AHEAD + 1):
            for new_attempts in range(new_names + 1):
                if files.is_regular(path := _join(stem, earlier_names + new_names, attempts + new_attempts)):
                    return path
    folders = filter(_is_there, likely_folders(spool_dir))  # few of a hundred: each has three names to look for
    return next(filter(None, (find(folder, id, known) for folder in folders)), None)


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def likely_folders(spool_dir: str) -> list[str]:
    """Return the folders of likely priorities, the most urgent first; they need not exist."""
    return [f"{spool_dir}/{priority}" for priority in sorted(_COMMON_PRIORITIES | registry.this_process.priorities)]


def _search(directory: str, id: str, known: str | None, max_entries: int | None, *, in_place: bool) -> str | None:
    """Return the path of the job's file under any name, in ``directory`` or a folder of jobs in it."""
    folders = []
    for entry in islice(_walk(directory, in_place=in_place), max_entries):
        if entry.name.startswith(PREFIX):
            if entry.name.startswith(id, len(PREFIX)) and id_of(entry.name) == id and _is_file(entry):
                return entry.path
        elif _is_folder(entry, in_place=in_place):
            folders.append(entry.path)
    return next(filter(None, (find(folder, id, known) for folder in folders)), None)


def _walk(directory: str, *, in_place: bool) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of ``directory``, then those of the folders of jobs in it."""
    folders = []
    with os.scandir(directory) as entries:
        for entry in entries:
            yield entry
            if _is_folder(entry, in_place=in_place):
                folders.append(entry.path)
    for folder in folders:
        yield from _walk(folder, in_place=False)


def is_due(path: str) -> bool:
    """Return whether the file exists and is due. uWSGI itself checks the time only before it has the lock."""
    try:
        return os.lstat(path).st_mtime <= clock.now()
    except FileNotFoundError:
        return False


def finish(path: str) -> None:
    """Remove the file of a job that is finished. Raises ``OSError``, but not if the file is gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def reschedule(path: str, run_at: float) -> str:
    """Make the job due at another time, under another name.

    The name changes with the time: a spooler that has seen the old time checks only the name once it has the lock.

    Args:
        path: The path of the file.
        run_at: When the job is due, in unix seconds.

    Returns:
        The new path.

    Raises:
        OSError: The file is gone, or cannot be renamed.
    """
    os.utime(path, ns=ns_of(run_at))
    new = _next(path)
    os.rename(path, new)
    return new


def count_attempt(path: str) -> tuple[str, int]:
    """Count an attempt in the name of the file. Returns the new path and the number of attempts counted in it."""
    new = _next(path, 1)
    os.rename(path, new)
    return new, _split(new)[2]


def attempts_in_filename(path: str) -> int:
    """Return the number of attempts that are counted in the name of the file."""
    return _split(path)[2]


def next_name(path: str) -> str:
    """Return the path that a file gets when it is rescheduled."""
    return _next(path)


def _next(path: str, new_attempts: int = 0) -> str:
    """Return the name after this one. It holds how many names came before it, and the attempts counted in names."""
    stem, earlier_names, attempts = _split(path)
    return _join(stem, earlier_names + 1, attempts + new_attempts)


def _join(stem: str, earlier_names: int, attempts: int) -> str:
    return f"{stem}.{earlier_names}" + (f"~{attempts}" if attempts else "")


def _split(path: str) -> tuple[str, int, int]:
    found = _SUFFIX.search(path)
    return (path[: found.start()], int(found[1]), int(found[2] or 0)) if found else (path, 0, 0)


def is_name_of_job(name: str) -> bool:
    """Return whether uWSGI looks at a file of that name, and it is a job's, or a chunk's, or another library's."""
    return name.startswith(PREFIX) and name != TICKET


def is_id(text: str) -> bool:
    """Return whether ``text`` has the form of a job's id: 32 hex digits."""
    return _ID.fullmatch(text) is not None


def id_of(name: str) -> str | None:
    """Return the id of the job whose file is called ``name``; ``None`` if that is not the name of a job of spoolkit."""
    found = _NAME.fullmatch(name)
    return found[1] if found else None


def pending(spool_dir: str, max_files: int | None = None) -> list[str]:
    """List the files of all jobs that wait or run, in no order but that those which uWSGI scans come first.

    Args:
        spool_dir: The spool directory.
        max_files: How many files are listed at most: the first that the system names; ``None``: all.

    Returns:
        The paths.

    Raises:
        OSError: The directory cannot be read.
    """
    others: list[str] = []
    # Read first, although they come last: a job that is moved in meanwhile is listed all the same.
    for folder in _waiting_folders(spool_dir):
        with contextlib.suppress(FileNotFoundError):
            others += _files(folder, max_files, in_place=True)
    found = _files(spool_dir, max_files, in_place=False) + others
    with contextlib.suppress(FileNotFoundError):
        if parked := _files(os.path.join(spool_dir, PARKED), max_files, in_place=True):
            # Once more: one that was parked meanwhile is in none of the lists, and may have no record.
            known = set(others)
            found += [path for path in parked if path not in known]
    return found[:max_files]


def in_place(spool_dir: str, max_files: int) -> list[str]:
    """List the first ``max_files`` files where uWSGI looks for them: of jobs that are due, but for a few that are not.

    Raises:
        OSError: The directory cannot be read.
    """
    return _files(spool_dir, max_files, in_place=False)


def _files(folder: str, max_files: int | None, *, in_place: bool) -> list[str]:
    """The spool files in a folder, then those in the folders of jobs in it: at most ``max_files``."""
    found, folders = _read(folder, max_files, in_place=in_place)
    for one in folders:
        if max_files is not None and len(found) >= max_files:
            break
        found += _read(one, max_files)[0]
    return found[:max_files]


def scanned(spool_dir: str) -> list[str]:
    """List the spool files that uWSGI looks at: by priority (folders of digits) first, then by name.

    Those that are in no such folder have the normal priority. Raises ``OSError``.
    """
    found, folders = _read(spool_dir)
    folders.sort(key=_priority)
    first = [folder for folder in folders if _priority(folder) <= NORMAL_PRIORITY]
    urgent, others = ([path for one in part for path in _scanned(one)] for part in (first, folders[len(first) :]))
    return [*urgent, *sorted(found), *others]


def _scanned(folder: str) -> list[str]:
    """The spool files in the folder of a priority, as uWSGI scans it: it looks into folders in it as well."""
    found, folders = _read(folder)
    return [path for inner in sorted(folders, key=_priority) for path in _scanned(inner)] + sorted(found)


def _read(folder: str, max_files: int | None = None, *, in_place: bool = False) -> tuple[list[str], list[str]]:
    """The spool files in a folder, at most ``max_files``, and the folders of jobs in it."""
    found, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_file(entry):
                found.append(entry.path)
            elif _is_folder(entry, in_place=in_place):
                folders.append(entry.path)
            if len(found) == max_files:
                break
    return found, folders


def _is_file(entry: os.DirEntry[str]) -> bool:
    return is_name_of_job(entry.name) and entry.is_file(follow_symlinks=False)


def is_spool_directory(path: str) -> bool:
    """Return whether ``path`` holds jobs, or the folder of its spoolers. Raises ``OSError``."""
    if os.path.isdir(os.path.join(path, files.SPOOLERS)):
        return True
    with os.scandir(path) as entries:
        return any(map(_is_file, entries))


def may_become_spool_directory(path: str) -> bool:
    """Return whether ``path`` is a spool directory, or holds only hidden files and what a site puts into one.

    A site may write there before its first spooler starts: a job, the store.

    Raises:
        OSError: The directory cannot be read.
    """
    return is_spool_directory(path) or all(map(_may_be_of_a_site, os.listdir(path)))


def _may_be_of_a_site(name: str) -> bool:
    return name.startswith((".", PREFIX, TEMPORARY, "spoolkit.db")) or name in places.NAMES or name.isdigit()


def priority_folders(spool_dir: str) -> list[str]:
    """Return the folders of jobs with a priority, the most urgent first. Raises ``OSError``."""
    with os.scandir(spool_dir) as entries:
        folders = [entry.path for entry in entries if _is_priority(entry)]
    return sorted(folders, key=_priority)


def folders_of_jobs(spool_dir: str) -> list[str]:
    """Return all folders that may hold waiting jobs: the spool directory first. Raises ``OSError``."""
    folders = [spool_dir, *priority_folders(spool_dir)]
    for folder in _waiting_folders(spool_dir):
        with contextlib.suppress(FileNotFoundError):
            folders += [folder, *_read(folder, in_place=True)[1]]
    return folders


def _priority(folder: str) -> int:
    return int(os.path.basename(folder))


def _is_priority(entry: os.DirEntry[str]) -> bool:
    return entry.name.isascii() and entry.name.isdigit() and entry.is_dir(follow_symlinks=False)


def _is_folder(entry: os.DirEntry[str], *, in_place: bool) -> bool:
    """Whether it is a folder of jobs: in the spool directory one of a priority, in a place of its own any folder."""
    return entry.is_dir(follow_symlinks=False) if in_place else _is_priority(entry)


def sweep(spool_dir: str) -> None:
    """Remove temporary files whose writer died before the rename: these jobs were not accepted. Raises ``OSError``.

    A file that was linked to its name before its writer died is an accepted job: it loses its temporary name.
    """
    for folder in (spool_dir, *(os.path.join(spool_dir, place.name) for place in places.PLACES if place.spool_files)):
        with _may_be_missing(folder, spool_dir):
            for entry in _walk(folder, in_place=folder != spool_dir):
                if entry.name.startswith(TEMPORARY):
                    files.remove_stray(entry)


def due_now() -> float:
    """Return a time for the file of a job that is due now, in unix seconds: one at which uWSGI takes it at once."""
    now = clock.now()
    return now - COARSE if now % 1 < COARSE else now


def ns_of(time: float) -> tuple[int, int]:
    """Return the time for ``os.utime(ns=...)``: twice in nanoseconds, rounded up, so that the job never runs early."""
    # In whole numbers: as a float, nanoseconds since 1970 come in steps of 256, and might be before the time.
    numerator, denominator = float(time).as_integer_ratio()
    whole = -(-numerator * 10**9 // denominator)
    return whole, whole
