"""The gate of a spool directory: while it is closed no job of the directory starts, and those that run go on.

``spoolers/paused`` closes it until somebody opens it, across restarts; the same with the word ``drain`` in it, until
the next start of uWSGI. ``spoolers/stopping`` is the word of an HTTP process that its uWSGI stops.
"""

from __future__ import annotations

import contextlib
import os

from spoolkit import bridge, clock, master, process
from spoolkit.presence import FOLDER

PAUSED = "paused"
STOPPING = "stopping"
DRAIN = b"drain"

AFTER_STOP = 5.0
"""Seconds for which a stop is believed in after the last job may have ended: then the master would be gone."""


def pause(directory: str) -> None:
    """Start no job of ``directory`` until :func:`resume`. Raises ``OSError``."""
    _write(directory, PAUSED, b"")


def drain(directory: str) -> None:
    """Start no job of ``directory`` until :func:`resume` or the next start of uWSGI. Raises ``OSError``."""
    if not is_paused(directory):
        _write(directory, PAUSED, DRAIN)


def resume(directory: str) -> bool:
    """Let jobs start again; whether they could not. Raises ``OSError``."""
    try:
        os.unlink(_path(directory, PAUSED))
    except FileNotFoundError:
        return False
    return True


def started(directory: str) -> None:
    """uWSGI has started: what was drained for that is open again. Never raises."""
    with contextlib.suppress(OSError):
        if _read(directory, PAUSED) == DRAIN:
            resume(directory)


def is_paused(directory: str) -> bool:
    """Whether somebody has paused or drained ``directory``."""
    return os.path.lexists(_path(directory, PAUSED))


def state(directory: str) -> str | None:
    """``paused``, ``drained``, or ``None``."""
    content = _read(directory, PAUSED)
    return None if content is None else "drained" if content == DRAIN else "paused"


def say_stopping(directory: str, seconds: float) -> None:
    """Tell the spoolers of this uWSGI that it stops, within ``seconds``. Never raises."""
    pid = bridge.master_pid()
    until = b"%d" % (clock.now() + seconds + AFTER_STOP)
    with contextlib.suppress(OSError):
        _write(directory, STOPPING, b"%d %s %s" % (pid, until, process.identity(pid)))


def say_not_stopping(directory: str) -> None:
    """Take that back. Never raises."""
    with contextlib.suppress(OSError):
        os.unlink(_path(directory, STOPPING))


def is_closed(directory: str) -> bool:
    """Whether no job may start: the directory is paused, or the uWSGI of this spooler stops."""
    if is_paused(directory):
        return True
    if not bridge.is_spooler():
        return False
    pid = bridge.master_pid()
    # The signal is seen at once; the word of an HTTP process comes later, but also where there was no signal.
    return master.is_stopping(pid) or _is_said(directory, pid)


def _is_said(directory: str, pid: int) -> bool:
    words = (_read(directory, STOPPING) or b"").split(b" ", 2)
    if len(words) < 3 or words[0] != b"%d" % pid or words[2] != process.identity(pid):
        return False
    return clock.now() < int(words[1])


def _path(directory: str, name: str) -> str:
    return os.path.join(directory, FOLDER, name)


def _read(directory: str, name: str) -> bytes | None:
    try:
        fd = os.open(_path(directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return os.read(fd, 256)
    finally:
        os.close(fd)


def _write(directory: str, name: str, content: bytes) -> None:
    path = _path(directory, name)
    # Not makedirs: a spool directory that is gone must not come back as an empty one that nobody serves.
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.dirname(path), mode=0o700)
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, content)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)
