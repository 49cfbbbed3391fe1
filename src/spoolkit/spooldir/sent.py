"""Which jobs are with a broker or in a worker? Their files wait in ``sent/`` until the end of the job is known here.

The folder mirrors the spool directory: the same names, the same folders of priorities. One rename moves a job out of
the spool directory once its broker has the message, and one moves it back to be published again.
"""

from __future__ import annotations

import os
import sys

from spoolkit.spooldir import changes, later, spoolfile
from spoolkit.system import files

FOLDER = "sent"

LOCK = "lock"
"""The file in it that the process has locked which hears of these jobs."""


def place(path: str, spool_dir: str) -> str:
    """Move the file of a job here, whose message a broker has by now. By path alone: a spooler has it locked.

    Args:
        path: The file, in the spool directory or in the folder of a priority in it.
        spool_dir: The spool directory.

    Returns:
        The new path.

    Raises:
        OSError: The file is gone, or cannot be moved.
    """
    above = os.path.dirname(path)
    priority = "" if above == spool_dir else os.path.basename(above)
    new = os.path.join(spool_dir, FOLDER, priority, os.path.basename(path))
    try:
        os.rename(path, new)
    except FileNotFoundError:
        for folder in dict.fromkeys((os.path.join(spool_dir, FOLDER), os.path.dirname(new))):
            files.make_folder(folder)
        os.rename(path, new)
    return new


def was_used(spool_dir: str) -> bool:
    """Return whether jobs of this spool directory have ever been sent, or were to be."""
    return os.path.isdir(os.path.join(spool_dir, FOLDER))


def holds(path: str, spool_dir: str) -> bool:
    """Return whether ``path`` is the file of a job that is sent."""
    return path.startswith(os.path.join(spool_dir, FOLDER, ""))


def find(spool_dir: str, id: str, known: str | None = None) -> str | None:
    """Find the file of a sent job by its likely names; ``known``: one that it has had. Raises ``OSError``."""
    folder = os.path.join(spool_dir, FOLDER)
    # To list the folders of priorities is to read the names of all sent jobs: only for a job that has a priority.
    if path := spoolfile.find(folder, id, known):
        return path
    for one in spoolfile.priority_folders(folder) if os.path.isdir(folder) else ():
        if path := spoolfile.find(one, id, known):
            return path
    return None


def paths(spool_dir: str) -> list[str]:
    """List the files of all sent jobs. Raises ``OSError``."""
    folder = os.path.join(spool_dir, FOLDER)
    return spoolfile.in_place(folder, sys.maxsize) if os.path.isdir(folder) else []


def ids(spool_dir: str) -> list[str]:
    """List the ids of all sent jobs. Raises ``OSError``."""
    return [id for path in paths(spool_dir) if (id := spoolfile.id_of(os.path.basename(path)))]


def since(path: str) -> float:
    """When the file was moved here, unix time in seconds (UTC), to some hundredths. Raises ``OSError``."""
    return os.lstat(path).st_ctime


def state(spool_dir: str) -> tuple[changes.Mark, ...]:
    """Another value after each job that was moved here or away. Raises ``OSError``."""
    folder = os.path.join(spool_dir, FOLDER)
    return tuple(map(changes.mark, (folder, *spoolfile.priority_folders(folder))))


def publish_again(path: str, spool_dir: str) -> str:
    """Move a sent job back to where a spooler takes it now, under another name. The caller has claimed the file.

    Returns:
        The new path.

    Raises:
        OSError: The file is gone, or cannot be moved.
    """
    return later.bring_forward(path, spool_dir, was_due=True)


def is_overdue(path: str, now: float, shortest: float) -> bool:
    """Return whether a sent job may be forgotten: it has been here for longer than it had waited until then.

    So each wait is twice as long as the one before, and no file says how often the job was published.

    Args:
        path: The file.
        now: The time, unix time in seconds (UTC).
        shortest: The shortest wait, in seconds.

    Raises:
        OSError: The file is gone.
    """
    about = os.lstat(path)
    return now - about.st_ctime > max(shortest, about.st_ctime - about.st_mtime)
