"""May jobs of a spool directory start? The gate of the directory is closed by a pause, or while uWSGI stops.

Running jobs go on. ``spoolers/paused`` closes the gate until somebody opens it, also after restarts; if it contains
``drain``, only until the next start of uWSGI. An HTTP process whose uWSGI stops writes ``spoolers/stopping``. One task
is paused by ``spoolers/paused.<group>``, which holds its name: see :mod:`spoolkit.coordination.pauses`.
"""

from __future__ import annotations

import contextlib
import os
import re

from spoolkit.spooldir.spoolers import FOLDER
from spoolkit.system import clock, files, process
from spoolkit.uwsgi import bridge, master

PAUSED = "paused"
STOPPING = "stopping"
_MARK = re.compile(r"paused\.(t[0-9a-f]{31})")
"""The name of the mark of a paused task."""

UNTIL_START = b"drain"
"""The content of ``spoolers/paused`` if the pause ends with the next start of uWSGI."""

STOP_MARGIN = 5.0
"""Seconds after the grace period for which an announced stop is believed: after that, the master would have exited."""

STOP_CHECK = 0.5
"""Seconds between two looks at the master while the first HTTP process, which announces a stop, lives."""


def pause(spool_dir: str) -> None:
    """Start no job of ``spool_dir`` until :func:`resume`. Raises ``OSError``."""
    files.check_user(spool_dir)
    _write(spool_dir, PAUSED, b"")


def pause_until_start(spool_dir: str) -> None:
    """Start no job of ``spool_dir`` until :func:`resume` or the next start of uWSGI. Raises ``OSError``."""
    files.check_user(spool_dir)
    if not is_paused(spool_dir):
        _write(spool_dir, PAUSED, UNTIL_START)


def resume(spool_dir: str) -> bool:
    """End the pause. Returns whether there was one. Raises ``OSError``."""
    try:
        os.unlink(_path(spool_dir, PAUSED))
    except FileNotFoundError:
        return False
    return True


def on_start(spool_dir: str) -> None:
    """End a pause that lasts until the start of uWSGI, which has started now. Never raises."""
    with contextlib.suppress(OSError):
        if _lasts_until_start(_path(spool_dir, PAUSED)):
            resume(spool_dir)


def is_paused(spool_dir: str) -> bool:
    """Return whether ``spool_dir`` is paused, until a start or not."""
    return os.access(_path(spool_dir, PAUSED), os.F_OK)


def state(spool_dir: str) -> str | None:
    """Return ``paused``, ``drained`` (until the next start of uWSGI) or ``None``.

    Raises:
        SpoolUnavailableError: This user cannot see whether the directory is paused.
    """
    path = _path(spool_dir, PAUSED)
    try:
        os.lstat(path)
        return "drained" if _lasts_until_start(path) else "paused"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise files.unavailable(spool_dir, error) from error


def _lasts_until_start(path: str) -> bool:
    try:
        return files.read(path) == UNTIL_START
    except PermissionError:
        # An earlier version left the file as root's own. Only its size can be read here, and there are two sizes.
        return os.lstat(path).st_size == len(UNTIL_START)


def pause_task(spool_dir: str, group: str, task: str) -> None:
    """Mark a task as paused, under the name of the group in which its jobs are parked. Raises ``OSError``."""
    files.check_user(spool_dir)
    _write(spool_dir, f"{PAUSED}.{group}", task.encode("utf-8", "backslashreplace"))


def resume_task(spool_dir: str, group: str) -> bool:
    """Remove the mark of a task. Returns whether there was one. Raises ``OSError``."""
    try:
        os.unlink(_path(spool_dir, f"{PAUSED}.{group}"))
    except FileNotFoundError:
        return False
    return True


def is_task_paused(spool_dir: str, group: str) -> bool:
    """Return whether the task of this group is paused."""
    return os.access(mark_of_task(spool_dir, group), os.F_OK)


def mark_of_task(spool_dir: str, group: str) -> str:
    """Return the path of the file that is there while the task of this group is paused."""
    return _path(spool_dir, f"{PAUSED}.{group}")


def paused_tasks(spool_dir: str) -> dict[str, str]:
    """Return the names of the tasks that are paused, by their groups. Never raises ``OSError``."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(os.path.join(spool_dir, FOLDER)):
            if mark := _MARK.fullmatch(name):
                with contextlib.suppress(OSError):
                    found[mark[1]] = (files.read(_path(spool_dir, name)) or b"?").decode("utf-8", "replace")
    return found


def publish_stop(spool_dir: str, seconds: float) -> None:
    """Tell the spoolers of this uWSGI that it stops within ``seconds``. Never raises."""
    pid = bridge.master_pid()
    until = b"%d" % (clock.now() + seconds + STOP_MARGIN)
    with contextlib.suppress(OSError):
        _write(spool_dir, STOPPING, b"%d %s %s" % (pid, until, process.identity(pid)))


def withdraw_stop(spool_dir: str) -> None:
    """Remove what :func:`publish_stop` wrote. Never raises."""
    files.remove(_path(spool_dir, STOPPING))


def is_closed(spool_dir: str) -> bool:
    """Return whether no job may start: the directory is paused, or the uWSGI of this spooler stops."""
    if is_paused(spool_dir):
        return True
    if not bridge.is_spooler():
        return False
    # What an HTTP process publishes comes before that process looks which spoolers are busy, and also where there was
    # no signal. The signal counts where no HTTP process says so: all may be gone, still start, or hang.
    return _is_master_stopping() or _is_stop_published(spool_dir)


_shows_stop = clock.Sampled(lambda: master.is_stopping(bridge.master_pid()), STOP_CHECK)
_is_master_stopping = clock.Sampled(
    lambda: _shows_stop() if bridge.is_first_worker_unchanged() else master.is_stopping(bridge.master_pid())
)


def _is_stop_published(spool_dir: str) -> bool:
    if not os.access(path := _path(spool_dir, STOPPING), os.F_OK):
        return False
    try:
        words = (files.read(path) or b"").split(b" ", 2)
    except OSError:
        return False
    pid = bridge.master_pid()
    if len(words) < 3 or words[0] != b"%d" % pid or words[2] != process.identity(pid):
        return False
    return clock.now() < int(words[1])


def _path(spool_dir: str, name: str) -> str:
    return f"{spool_dir}/{FOLDER}/{name}"


def _write(spool_dir: str, name: str, content: bytes) -> None:
    path = _path(spool_dir, name)
    files.make_folder(os.path.dirname(path))
    files.write(path, content)
