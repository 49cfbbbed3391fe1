"""The gate of a spool directory: while it is closed no job of the directory starts, and those that run go on.

``spoolers/paused`` closes it until somebody opens it, across restarts; the same with the word ``drain`` in it, until
the next start of uWSGI. ``spoolers/stopping`` is the word of an HTTP process that its uWSGI stops.
"""

from __future__ import annotations

import contextlib
import os

from spoolkit.spooldir.spoolers import FOLDER
from spoolkit.system import clock, files, process
from spoolkit.uwsgi import bridge, master

PAUSED = "paused"
STOPPING = "stopping"
DRAIN = b"drain"

AFTER_STOP = 5.0
"""Seconds for which a stop is believed in after the last job may have ended: then the master would be gone."""


def pause(directory: str) -> None:
    """Start no job of ``directory`` until :func:`resume`. Raises ``OSError``."""
    files.check_user(directory)
    _write(directory, PAUSED, b"")


def pause_until_start(directory: str) -> None:
    """Start no job of ``directory`` until :func:`resume` or the next start of uWSGI. Raises ``OSError``."""
    files.check_user(directory)
    if not is_paused(directory):
        _write(directory, PAUSED, DRAIN)


def resume(directory: str) -> bool:
    """Let jobs start again; whether they could not. Raises ``OSError``."""
    try:
        os.unlink(_path(directory, PAUSED))
    except FileNotFoundError:
        return False
    return True


def on_start(directory: str) -> None:
    """uWSGI has started: what was drained for that is open again. Never raises."""
    with contextlib.suppress(OSError):
        if _is_drain(_path(directory, PAUSED)):
            resume(directory)


def is_paused(directory: str) -> bool:
    """Whether somebody has paused or drained ``directory``."""
    return os.path.lexists(_path(directory, PAUSED))


def state(directory: str) -> str | None:
    """``paused``, ``drained``, or ``None``. Raises :class:`SpoolUnavailableError` where that cannot be seen."""
    path = _path(directory, PAUSED)
    try:
        os.lstat(path)
        return "drained" if _is_drain(path) else "paused"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise files.unavailable(directory, error) from error


def _is_drain(path: str) -> bool:
    try:
        return files.read(path) == DRAIN
    except PermissionError:
        # An earlier version left it as root's own. It belongs to whoever may look at it here, and has one of two sizes.
        return os.lstat(path).st_size == len(DRAIN)


def publish_stop(directory: str, seconds: float) -> None:
    """Tell the spoolers of this uWSGI that it stops, within ``seconds``. Never raises."""
    pid = bridge.master_pid()
    until = b"%d" % (clock.now() + seconds + AFTER_STOP)
    with contextlib.suppress(OSError):
        _write(directory, STOPPING, b"%d %s %s" % (pid, until, process.identity(pid)))


def withdraw_stop(directory: str) -> None:
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
    try:
        words = (files.read(_path(directory, STOPPING)) or b"").split(b" ", 2)
    except OSError:
        return False
    if len(words) < 3 or words[0] != b"%d" % pid or words[2] != process.identity(pid):
        return False
    return clock.now() < int(words[1])


def _path(directory: str, name: str) -> str:
    return os.path.join(directory, FOLDER, name)


def _write(directory: str, name: str, content: bytes) -> None:
    path = _path(directory, name)
    files.make_folder(os.path.dirname(path))
    files.write(path, content)
