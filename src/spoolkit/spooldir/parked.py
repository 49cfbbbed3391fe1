"""Which jobs wait for something other than a time? Their files lie in ``parked/``, where uWSGI does not look.

Each group of jobs that wait for the same thing has a folder. A file keeps its name and its time, the due time: that is
its place in the line. One rename moves a job out of the spool directory, and one moves it back: it is in one of them.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.job import JobSpec
from spoolkit.spooldir import priorities, spoolfile
from spoolkit.system import files
from spoolkit.system.process import PerProcess

FOLDER = spoolfile.PARKED

REMEMBERED = 100
"""How many files of a longer line this process remembers, the next ones: to find them it has to look at all."""

REMEMBERED_FOR = 1.0
"""Seconds for which it does: it does not know of those that another process parks meanwhile."""


class Place(NamedTuple):
    """The place of a job in the line of its group: the smaller one is the next."""

    #: When the job is due, in unix nanoseconds.
    due: int
    #: The name of its file: of two with the same time, the one that was enqueued first is before the other.
    name: str
    #: The spool directory.
    spool_dir: str


def folder(spool_dir: str, group: str) -> str:
    """Return the folder of the jobs in a group, whose name begins with a letter: it is not the folder of a priority."""
    return os.path.join(spool_dir, FOLDER, group)


def group_of(path: str) -> str | None:
    """Return the group in which the file ``path`` is parked; ``None`` if it is not parked."""
    above, _, group = os.path.dirname(path).rpartition(os.sep)
    return group if os.path.basename(above) == FOLDER else None


def park(path: str, spool_dir: str, group: str) -> str:
    """Move the file of a job, which the caller has locked, out of the way of the spoolers, and release the lock.

    Args:
        path: The file.
        spool_dir: The spool directory.
        group: The name of the group.

    Returns:
        The new path.

    Raises:
        OSError: The file is gone, or cannot be moved.
    """
    new = _free_name(os.path.join(folder(spool_dir, group), os.path.basename(path)))
    while True:
        try:
            os.rename(path, new)
            break
        except FileNotFoundError:
            if not os.path.lexists(path):
                raise
            # There is no folder yet, or another process has just removed it, which was empty.
            files.make_folder(os.path.dirname(os.path.dirname(new)))
            files.make_folder(os.path.dirname(new))
    # Another process may move the file back at any moment: its spooler must not find it locked.
    with contextlib.suppress(OSError):
        os.close(os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    return new


def _free_name(path: str) -> str:
    # A rename onto the name of a running job would replace its locked file; in the line it may be a copy made by hand.
    while os.path.lexists(path):
        path = spoolfile.next_name(path)
    return path


def next_place(spool_dir: str, group: str) -> Place | None:
    """Return the place of the job that is the next one of a group; ``None`` if there is none. Raises ``OSError``."""
    path = folder(spool_dir, group)
    remembered, now = _lines.get(), time.monotonic()
    line = remembered.get(path)
    while line is not None and line.places and now < line.until:
        place = line.places[0]
        if files.is_regular(os.path.join(path, place.name)):
            return place
        del line.places[0]
    remembered.pop(path, None)
    try:
        found = list(_places(path, spool_dir))
    except FileNotFoundError:
        return None
    first = heapq.nsmallest(REMEMBERED, found)
    if len(found) > REMEMBERED:
        remembered[path] = _Line(first, now + REMEMBERED_FOR)
    return first[0] if first else None


class _Line(NamedTuple):
    places: list[Place]
    #: Until when they are remembered, on the monotonic clock.
    until: float


_lines: PerProcess[dict[str, _Line]] = PerProcess(dict)
"""By folder, for those with many files."""


def _places(path: str, spool_dir: str) -> Iterator[Place]:
    with os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # moved back, or cancelled
                if spoolfile.id_of(entry.name) is not None and entry.is_file(follow_symlinks=False):
                    yield Place(entry.stat(follow_symlinks=False).st_mtime_ns, entry.name, spool_dir)


def move_back(path: str, spool_dir: str) -> str | None:
    """Move a parked job to where spoolers take it. It releases a lock that this process has on the file.

    Args:
        path: The parked file.
        spool_dir: The spool directory.

    Returns:
        The new path; ``None`` if the job was cancelled, or another process has moved it.

    Raises:
        OSError: The file cannot be moved.
    """
    job = head(path)
    return put_back(path, spool_dir, None if job is None else job.priority)


def put_back(path: str, spool_dir: str, priority: int | None) -> str | None:
    """Do the same for a job whose priority is known, without opening the file: a lock on it stays."""
    target_folder = priorities.folder(spool_dir, priorities.scanned(priority, spool_dir))
    target = _free_name(os.path.join(target_folder, os.path.basename(path)))
    try:
        os.rename(path, target)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise  # it is the target's folder that is missing
        return None
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))  # if this was the last one
    return target


def find(spool_dir: str, group: str, id: str, known: str | None) -> str | None:
    """Return the path of a parked job's file, if it has one of its likely names; ``known``: one that it has had."""
    return spoolfile.find(folder(spool_dir, group), id, known)


def groups(spool_dir: str) -> Iterator[str]:
    """Yield the names of all groups. Never raises ``OSError``."""
    with contextlib.suppress(OSError), os.scandir(os.path.join(spool_dir, FOLDER)) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name


def paths(spool_dir: str) -> list[str]:
    """Return the files of all groups, in the order of their places. Never raises ``OSError``."""
    found: list[tuple[Place, str]] = []
    for group in groups(spool_dir):
        path = folder(spool_dir, group)
        with contextlib.suppress(OSError):
            found += ((place, os.path.join(path, place.name)) for place in _places(path, spool_dir))
    return [path for _, path in sorted(found)]


def paths_of(spool_dir: str, group: str) -> list[str]:
    """Return the files of a group, in the order of their places. Never raises ``OSError``."""
    path = folder(spool_dir, group)
    with contextlib.suppress(OSError):
        return [os.path.join(path, place.name) for place in sorted(_places(path, spool_dir))]
    return []


def any_job(spool_dir: str, group: str) -> JobSpec | None:
    """Return a job of a group, without its arguments; ``None`` if no file can be read. Never raises ``OSError``."""
    with contextlib.suppress(OSError), os.scandir(folder(spool_dir, group)) as entries:
        for entry in entries:
            if spoolfile.id_of(entry.name) is not None and (job := head(entry.path)) is not None:
                return job
    return None


def largest(spool_dir: str, max_groups: int) -> list[tuple[int, str]]:
    """Return how many files the largest groups have, and their names. Never raises ``OSError``."""
    sizes: list[tuple[int, str]] = []
    for group in groups(spool_dir):
        with contextlib.suppress(OSError):
            names = os.listdir(folder(spool_dir, group))
            sizes.append((sum(name.startswith(spoolfile.PREFIX) for name in names), group))
    return [(size, group) for size, group in heapq.nlargest(max_groups, sizes) if size]


def remove_if_empty(spool_dir: str, group: str) -> bool:
    """Remove the folder of a group if it is empty. Returns whether it is gone."""
    try:
        os.rmdir(folder(spool_dir, group))
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return True


def head(path: str) -> JobSpec | None:
    """Return the job in a parked file, without its arguments; ``None`` if it is damaged or gone.

    A parked file is not locked, so that it may be opened.
    """
    try:
        with open(files.open_regular(path, linked=True), "rb") as file:
            return packet.head(packet.load(file.read(packet.HEAD_SIZE)))
    except (OSError, DecodeError):
        return None
