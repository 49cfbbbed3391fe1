"""What is known of each schedule? A small file in ``schedules/``, which is the truth about what has run.

The files are changed under one lock, and replaced by a rename: a reader needs no lock. A job of a due time is made only
after the file says so, and starts only after the file names a later one. So a due time that is over never comes again,
whatever became of its job's file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import quote

from spoolkit.system import files, process
from spoolkit.system.process import PerProcess

FOLDER = "schedules"

SUFFIX = ".json"

LOCK = "lock"

NAME_MAX = 255
"""Characters that the name of a file may have."""

LOCK_TIMEOUT = 5.0
"""Seconds to wait for the lock, which another process holds for some milliseconds."""

_ID = re.compile("[0-9a-f]{32}")

_thread_lock = PerProcess(threading.Lock)
"""Held with the file's lock, which is that of the process: a second thread would get it as well, and release it."""


@dataclass(frozen=True)
class State:
    """What is known of one schedule. Times without a unit are unix time in nanoseconds (UTC)."""

    #: Its name.
    name: str
    #: When it is due and what runs, as :class:`spoolkit.schedules.schedule.Schedule` has it; ``None``: it was removed.
    definition: dict[str, Any] | None
    #: The due time whose job waits, or is about to be made; ``None``: there is none while it is paused or removed.
    next: int | None
    #: The latest due time whose job was taken to run, or was over before; 0: none yet.
    fired: int = 0
    #: Whether somebody has paused it.
    paused: bool = False
    #: When the definition was written, in seconds since the boot of :attr:`identity`.
    written: float = 0.0
    #: The process that wrote the definition.
    pid: int = 0
    #: What tells that process from others with the same pid, and its start: see :func:`~.process.identity`.
    identity: str = ""


_FIELDS = frozenset(field.name for field in fields(State))


@contextlib.contextmanager
def locked(spool_dir: str) -> Iterator[None]:
    """Keep all other processes and threads from changing schedules. Raises ``OSError``, also if that takes too long."""
    folder = os.path.join(spool_dir, FOLDER)
    path, deadline = os.path.join(folder, LOCK), time.monotonic() + LOCK_TIMEOUT
    if not _thread_lock.get().acquire(timeout=LOCK_TIMEOUT):
        raise TimeoutError(f"{path} is locked by another thread")
    try:
        files.make_folder(folder)
        fd = files.open_or_create(path)
        try:
            while not files.try_lock(fd):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path} is locked by another process")
                time.sleep(0.002)
            yield
        finally:
            os.close(fd)
    finally:
        _thread_lock.get().release()


def read(spool_dir: str, name: str) -> State | None:
    """Read what is known of a schedule; ``None`` if there is no such file, or it is damaged. Raises ``OSError``."""
    path = path_of(spool_dir, name)
    if len(os.path.basename(path)) > NAME_MAX:
        return None  # what a form or a command was given: no schedule has such a name
    return _parsed(files.read(path), name)


def read_all(spool_dir: str) -> list[State]:
    """Read what is known of all schedules, by name. Raises ``OSError``."""
    try:
        names = sorted(os.listdir(os.path.join(spool_dir, FOLDER)))
    except (FileNotFoundError, NotADirectoryError):  # the doctor reports a file in its place
        return []
    contents = [files.read(os.path.join(spool_dir, FOLDER, name)) for name in names if name.endswith(SUFFIX)]
    return [state for state in map(_parsed, contents) if state is not None]


def write(spool_dir: str, state: State, *, fsync: bool = False) -> None:
    """Replace what is known of a schedule; the caller holds the lock. Raises ``OSError``.

    Args:
        spool_dir: The spool directory.
        state: What is known.
        fsync: Whether it must be on the disk when this function returns.
    """
    files.write(path_of(spool_dir, state.name), json.dumps(asdict(state)).encode(), fsync=fsync)
    if fsync:
        files.fsync_folder(os.path.join(spool_dir, FOLDER))


def path_of(spool_dir: str, name: str) -> str:
    """Return the path of a schedule's file."""
    return os.path.join(spool_dir, FOLDER, quote(name, safe=" ") + SUFFIX)


def tick_id(name: str, due: int) -> str:
    """Return the id of the job that runs the schedule ``name`` at ``due``: it sorts by time, as all ids do."""
    return f"{due:016x}{hashlib.sha256(f'{due} {name}'.encode()).hexdigest()[:16]}"


def due_of(id: str) -> int:
    """Return the due time in the id of a tick."""
    return int(id[:16], 16)


def is_tick_of(name: str, id: str) -> bool:
    """Return whether ``id`` is that of a job of the schedule ``name``."""
    return tick_id(name, due_of(id)) == id


def may_be_tick(id: str) -> bool:
    """Return whether a job may be one of a schedule: almost no call is."""
    # Due times are whole milliseconds, as the time in the id of a call nearly never is.
    return _ID.fullmatch(id) is not None and due_of(id) % 10**6 == 0


def name_of(spool_dir: str, id: str) -> str | None:
    """Return the name of the schedule whose run a job is; ``None`` if it is none. Raises ``OSError``."""
    if not may_be_tick(id):
        return None  # and nothing is read
    return next((state.name for state in read_all(spool_dir) if is_tick_of(state.name, id)), None)


def written_here(state: State, **changes: Any) -> State:
    """Return ``state`` with ``changes`` in its definition, which this process writes now."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    written = {**asdict(state), "written": now, "pid": os.getpid(), "identity": process.own().decode()}
    return State(**{**written, **changes})


def has_older_writer(state: State) -> bool:
    """Whether the process that wrote the definition started before this one, or is gone."""
    known, own = state.identity.encode(), process.own()
    if state.pid == os.getpid() and known == own:
        return False
    return _boot(known) != _boot(own) or _ticks(own) > _ticks(known) or not process.is_alive(state.pid, known)


def is_older_than_this_process(state: State) -> bool:
    """Whether the definition was written before this process started."""
    own = process.own()
    return _boot(state.identity.encode()) != _boot(own) or _ticks(own) / os.sysconf("SC_CLK_TCK") > state.written


def _ticks(identity: bytes) -> int:
    first = identity.split()[:1]
    return int(first[0]) if first and first[0].isdigit() else 0


def _boot(identity: bytes) -> bytes:
    return b" ".join(identity.split()[1:])


def _parsed(data: bytes | None, name: str | None = None) -> State | None:
    try:
        found = dict(json.loads(data or b""))
        # A newer version may have more fields. If its file counted as damaged, a pause would be forgotten.
        state = State(**{key: found[key] for key in found if key in _FIELDS})
    except (ValueError, TypeError):
        return None
    return state if name in (None, state.name) else None
