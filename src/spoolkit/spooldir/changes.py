"""Has anything changed in a spool directory? Told by the times of its folders, of which no file is read.

A folder's time changes whenever a file in it is made, renamed or removed, which is all that happens to jobs. What a
running attempt shows is written through mappings, which change no time: those few files are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from spoolkit.spooldir import running
from spoolkit.spooldir.places import PLACES
from spoolkit.system.process import PerProcess

MAX_FOLDERS = 1000
"""How many folders in a folder are looked at."""

_NO_FOLDERS = 2
"""The number of links of a folder in which there is none, where the file system counts them."""

_WATCHED = tuple(place for place in PLACES if place.name not in ("running", "stacks", "threads", "unique", "waiting"))
"""The folders that say something of jobs by what is in them."""


class Mark(NamedTuple):
    """The state of a file or folder: another one after each change, unless two changes have the same time."""

    #: Its inode; 0: there is none.
    inode: int
    #: When it was changed, in unix nanoseconds by the clock of the file system.
    changed: int
    #: Its size in bytes.
    size: int = 0


def mark(path: str) -> Mark:
    """Return the mark of a file or folder. Raises ``OSError``, but not if there is none."""
    try:
        about = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return Mark(0, 0)
    return Mark(about.st_ino, about.st_mtime_ns, about.st_size)


_folders: PerProcess[dict[str, tuple[Mark, list[str]]]] = PerProcess(dict)
"""By path: the folders in a folder, and its mark when they were listed: there may be 100,000 files beside them."""


def marks(spool_dir: str) -> tuple[Mark, ...]:
    """Return the marks of all folders of a spool directory that hold jobs, or say something of them.

    Raises:
        OSError: The directory cannot be read.
    """
    found = [mark(spool_dir), *map(mark, _folders_in(spool_dir))]
    for place in _WATCHED:
        path = os.path.join(spool_dir, place.name)
        found.append(mark(path))
        if place.has_folders:
            found += map(mark, _folders_in(path))
    return tuple(found)


def shown(spool_dir: str) -> list[bytes]:
    """Return what the running attempts show now, as bytes to compare. Never raises ``OSError``."""
    return running.heads(spool_dir)


def _folders_in(path: str) -> list[str]:
    try:
        links = os.stat(path).st_nlink
    except FileNotFoundError:
        return []
    if links == _NO_FOLDERS:
        return []
    now, cached = mark(path), _folders.get()
    known = cached.get(path)
    if known is None or known[0] != now:
        known = cached[path] = now, list(_list(path))
    return known[1]


def _list(path: str) -> Iterator[str]:
    with os.scandir(path) as entries:
        folders = (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        yield from (path for path, _ in zip(sorted(folders), range(MAX_FOLDERS), strict=False))
