"""Which job holds the key of a unique task's call? A small file for each key names it, in ``unique/``.

The file proves nothing by itself: its job may be over, or may never have been accepted. Whether the job holds the key
is asked of the job's own file and record. So no kill leaves anything that would have to be released.

Callers take turns by locks on ranges of one file, a byte for each key. A lock on the file of the key would be lost
where that file is removed.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from spoolkit.errors import KeyLockedError
from spoolkit.spooldir import spoolfile
from spoolkit.system import clock, files, locks

FOLDER = "unique"

LOCK = "lock"
"""The file in the folder on which callers lock the keys."""

LOCK_TIME = 30.0
"""Seconds to wait for the lock of a key, which another call has for a millisecond, or ``map()`` for its rows: a process
that has it longer is stopped, or hangs."""

FIRST_PAUSE, LONGEST_PAUSE = 0.0001, 0.005
"""Seconds between two tries to get it."""

TURNSTILE = 1 << 60
"""The byte of the lock file, behind those of all keys, that whoever waits for all keys has locked now and then."""

TURN = 0.25
"""Seconds for which it is locked, and for which it is not: where a process is stopped that has a key, the calls of
other keys go on in between."""

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


class _Lock(locks.LockedFile):
    """A lock on a key, or on all of them."""

    def __init__(self, fd: int, folder: str, start: int, length: int) -> None:
        super().__init__(fd)
        self.folder = folder
        self.start = start
        self.length = length
        self.outer: _Lock | None = None

    def note(self) -> None:
        """Remember which one this thread has open already: a signal handler or a finalizer may call a unique task."""
        outer = _own.latest
        while outer is not None and outer.closed:
            outer = outer.outer
        self.outer = outer
        _own.latest = self

    def is_within_itself(self) -> bool:
        """Whether this thread itself has one of the keys locked, or waits for it, in a call that it has interrupted."""
        one = self.outer
        while one is not None:
            overlaps = not (self.length and one.length) or self.start == one.start
            if not one.closed and one.folder == self.folder and overlaps:
                return True
            one = one.outer
        return False


class _Own(threading.local):
    latest: _Lock | None = None


_own = _Own()
"""The lock that this thread has opened last."""


def locked(spool_dir: str, key: str | None, *, wait: float | None = None, task: str = "") -> locks.LockedFile:
    """Lock a key. No other thread and no other process has it until the lock, a context manager, is closed.

    The kernel releases it where this process dies. Whoever waits asks again and again: the kernel has no bounded wait.

    Args:
        spool_dir: The spool directory with the keys.
        key: The key; ``None``: all keys.
        wait: Seconds to wait for it at most; ``None``: :data:`LOCK_TIME`.
        task: The name of the task that is called, for the error.

    Raises:
        KeyLockedError: It was locked all the time, or this thread itself has locked it.
        OSError: The folder cannot be written.
    """
    wait, folder = LOCK_TIME if wait is None else wait, f"{spool_dir}/{FOLDER}"
    start, length = (0, 0) if key is None else (int(key[1:16], 16), 1)
    lock = _Lock(_open_lock(folder), folder, start, length)
    try:
        lock.note()
        fd, begun, pause = lock.fileno(), 0.0, FIRST_PAUSE
        while not ((key is None or not locks.is_locked(fd, TURNSTILE, 1)) and locks.try_lock(fd, start, length)):
            if lock.is_within_itself():
                raise _locked_error(lock, key, task, [])
            now = time.monotonic()
            begun = begun or now
            if now >= begun + wait:
                pids = locks.holders(f"{folder}/{LOCK}", start, length) if wait else []
                pids = pids or (locks.holders(f"{folder}/{LOCK}", TURNSTILE, 1) if wait else [])
                raise _locked_error(lock, key, task, pids, wait)
            if key is None:
                # Under many calls, somebody has a key at any time: no new one comes in while the others end.
                if int((now - begun) / TURN) % 2:
                    locks.try_lock(fd, TURNSTILE, 1)
                else:
                    locks.unlock(fd, TURNSTILE, 1)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
    except BaseException:
        lock.close()  # first: nothing can come between an exception and the first call of its handler
        raise
    return lock


def _locked_error(lock: _Lock, key: str | None, task: str, pids: list[int], wait: float = 0.0) -> KeyLockedError:
    what = f"all keys in {lock.folder} are" if key is None else f"the key {key} in {lock.folder} is"
    about = f"{task} is unique, and " if task else ""
    if not pids and lock.is_within_itself():
        pids = [os.getpid()]
        by = f"by this very thread of process {os.getpid()}, whose call a signal handler or a finalizer has interrupted"
        advice = "call the task from the code that is interrupted, or with another key"
    else:
        by = f"by process {', '.join(map(str, pids))}" if pids else "by a process that this user may not see"
        by += f", and have been for {wait:g} s" if key is None else f", and has been for {wait:g} s"
        advice = "see whether that process is stopped or hangs, and end it if so: its end releases the key"
    return KeyLockedError(
        f"{about}{what} locked {by}: nothing was accepted; {advice}", key=key or "", pid=pids[0] if pids else None
    )


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
        with locked(spool_dir, None, wait=0):
            names = [name for name in os.listdir(f"{spool_dir}/{FOLDER}") if _KEY.fullmatch(name)]
            chosen = names if len(names) <= EXAMINED else random.sample(names, EXAMINED)
            named = {name: holder for name in chosen if (holder := _read(f"{spool_dir}/{FOLDER}/{name}"))}
            over = are_over(list(named.values()))
            removed = [name for name, holder in named.items() if holder.job in over]
            for name in removed:
                remove(spool_dir, name)
            return len(removed) > EXAMINED / 2
    except (OSError, KeyLockedError):
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
