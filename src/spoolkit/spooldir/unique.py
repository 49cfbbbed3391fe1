"""Which job holds the key of a unique task's call? A small file for each key names it, in ``unique/``.

The file proves nothing by itself: its job may be over, or may never have been accepted. Whether the job holds the key
is asked of the job's own file and record. So no kill leaves anything that would have to be released.

Callers take turns by locks on ranges of one file, a byte for each key. A lock on the file of the key would be lost
where that file is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from spoolkit.spooldir import spoolfile
from spoolkit.system import clock, files
from spoolkit.system.process import PerProcess

FOLDER = "unique"

LOCK = "lock"
"""The file in the folder on which callers lock the keys."""

UNUSED_AGE = 60.0
"""Seconds after which a key whose job is over can be removed by the sweep."""

EXAMINED = 500
"""Keys that are examined at once, while callers of unique tasks wait."""

_KEY = re.compile(r"k[0-9a-f]{64}", re.ASCII)


class Holder(NamedTuple):
    """The job that a key names, and where it may be found."""

    #: The id of the job.
    job: str
    #: Its spool directory.
    spool_dir: str
    #: A name that its file has had.
    file: str


class _Turn:
    """What this process has open. Its threads take turns: ``fcntl()`` locks belong to the process, not to a thread."""

    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self.fds: list[int] = []
        self.depth = 0


_turn = PerProcess(_Turn)


class locked:  # noqa: N801 - a function would be a generator, whose frames take three times as long
    """Hold a key. No other thread and no other process has it meanwhile; the kernel releases it where this one dies.

    Args:
        spool_dir: The spool directory with the keys.
        key: The key; ``None``: all keys.
        wait: Whether to wait for it.

    The context is whether the key is held: always, if ``wait``. Entering it raises ``OSError`` if the folder cannot be
    made or written.
    """

    def __init__(self, spool_dir: str, key: str | None, *, wait: bool = True) -> None:
        self._folder = f"{spool_dir}/{FOLDER}"
        self._range = (0, 0) if key is None else (1, int(key[1:16], 16))
        self._wait = wait
        self._turn = _turn.get()

    def __enter__(self) -> bool:
        turn = self._turn
        self._has_turn = turn.mutex.acquire(blocking=self._wait)
        if not self._has_turn:
            return False
        turn.depth += 1
        try:
            turn.fds.append(fd := _open_lock(self._folder))
            # By fcntl(), not by flock(): a process that a request forks does not inherit the lock.
            fcntl.lockf(fd, fcntl.LOCK_EX if self._wait else fcntl.LOCK_EX | fcntl.LOCK_NB, *self._range)
        except BlockingIOError:
            return False
        except BaseException:
            self.__exit__()
            raise
        return True

    def __exit__(self, *_: object) -> None:
        turn = self._turn
        if not self._has_turn:
            return
        turn.depth -= 1
        if turn.depth == 0:
            # Not earlier: a signal handler may call a unique task while this thread holds another key, and to close
            # any descriptor of the file releases all of the locks of this process.
            while turn.fds:
                os.close(turn.fds.pop())
        turn.mutex.release()


def _open_lock(folder: str) -> int:
    path = f"{folder}/{LOCK}"
    try:
        # Nothing is read from it or written to it, so that it matters little what it is.
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return files.open_or_create(path)


def prepare(spool_dir: str) -> None:
    """Make the folder of the keys, if it is missing. Raises ``OSError``."""
    files.make_folder(f"{spool_dir}/{FOLDER}")


def is_prepared(spool_dir: str) -> bool:
    """Return whether there is the folder of the keys."""
    return os.access(f"{spool_dir}/{FOLDER}", os.X_OK)


def holder(spool_dir: str, key: str) -> Holder | None:
    """Return which job the key names; ``None`` if it names none. The caller holds the key. Raises ``OSError``."""
    return _read(f"{spool_dir}/{FOLDER}/{key}")


def _read(path: str) -> Holder | None:
    parts = (files.read(path) or b"").split(b"\0", 3)
    if len(parts) < 4:
        return None  # the machine lost its power while it was written
    job, file, spool_dir, _ = map(os.fsdecode, parts)
    return Holder(job, spool_dir, file) if job and spoolfile.id_of(file) == job else None


_owner = lru_cache(maxsize=16)(files.owner)
"""The owner of a folder of keys when this process first asked."""


def take(spool_dir: str, key: str, holder: Holder, *, fsync: bool = False) -> None:
    """Let the key name a job. The caller holds the key. Raises ``OSError``."""
    folder = f"{spool_dir}/{FOLDER}"
    path = f"{folder}/{key}"
    try:
        fd = files.create(path, _owner(folder))
    except FileExistsError:
        fd = files.open_regular(path, os.O_RDWR)
    try:
        # In place, as one write, which a kill does not tear. What is left of a longer one comes after the end of it.
        os.write(fd, b"%b\0%b\0%b\0" % tuple(map(os.fsencode, (holder.job, holder.file, holder.spool_dir))))
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)
    if fsync:
        files.fsync_folder(folder)


def remove_over(spool_dir: str, are_over: Callable[[list[Holder]], set[str]]) -> bool:
    """Remove some of the keys whose jobs are over, so that keys do not pile up. Nothing depends on it. Never raises.

    Args:
        spool_dir: The spool directory.
        are_over: Returns the ids of those jobs that are over and recorded.

    Returns:
        Whether there may be more of them.
    """
    try:
        with locked(spool_dir, None, wait=False) as are_held:
            if not are_held:
                return False
            names = [name for name in os.listdir(f"{spool_dir}/{FOLDER}") if _KEY.fullmatch(name)]
            chosen = names if len(names) <= EXAMINED else random.sample(names, EXAMINED)
            named = {name: holder for name in chosen if (holder := _read(f"{spool_dir}/{FOLDER}/{name}"))}
            over = are_over(list(named.values()))
            removed = [name for name, holder in named.items() if holder.job in over]
            for name in removed:
                remove(spool_dir, name)
            return len(removed) > EXAMINED / 2
    except OSError:
        return False


def remove(spool_dir: str, key: str) -> None:
    """Remove a key that names no job any more. The caller holds the key. Never raises ``OSError``."""
    files.remove(f"{spool_dir}/{FOLDER}/{key}")


def unused(spool_dir: str) -> Iterator[str]:
    """Yield the keys that no call has taken within the last minute. Never raises ``OSError``."""
    with contextlib.suppress(OSError), os.scandir(os.path.join(spool_dir, FOLDER)) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if _KEY.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < clock.now() - UNUSED_AGE:
                    yield entry.name
