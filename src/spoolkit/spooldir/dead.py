"""Which jobs are dead letters? Their files lie in ``dead/``, each with its reason beside it as JSON.

The functions use paths alone, so that a spooler may move the file that it has locked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from spoolkit.job import first_id
from spoolkit.spooldir import changes
from spoolkit.spooldir.spoolfile import PREFIX, due_now, id_of, is_id, ns_of
from spoolkit.system import clock, files
from spoolkit.system.process import PerProcess

FOLDER = "dead"
REPORT_LIMIT = 4 * 1024 * 1024
"""The greatest size of a report in bytes: a larger one is not read."""

SETTLED = 0.1
"""Seconds after a change within which another one may have the same time: clocks of file systems have ticks."""

_listed: PerProcess[dict[str, tuple[changes.Mark, list[str]]]] = PerProcess(dict)
"""By folder: its mark when it was listed, and the names."""

_UNFINISHED = rf"\.json{files.TEMPORARY}"
_REPORT = re.compile(rf"\.json$|{_UNFINISHED}")
"""How the name of a report ends. While it is being written it ends like a temporary file; see :func:`files.write`."""


def quarantine(path: str, spool_dir: str, *, reason: str, task: str | None = None, traceback: str | None = None) -> str:
    """Move a file to ``dead/``, with a report beside it.

    Args:
        path: The path of the file.
        spool_dir: The spool directory.
        reason: Why the job cannot run.
        task: The name of the task; ``None``: not known.
        traceback: The traceback of the last attempt; ``None``: there is none.

    Returns:
        The new path of the file.

    Raises:
        OSError: The file is gone, or cannot be moved. A report that cannot be written is no error.
    """
    folder = os.path.join(spool_dir, FOLDER)
    files.make_folder(folder)
    # The name of a file that is not ours may not be UTF-8, or leave no room for the ending.
    text = os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace").replace("\\", "_")
    target = _free(os.path.join(folder, text.encode()[:200].decode("utf-8", "ignore")))
    name = os.path.basename(target)
    report = {"file": name, "task": task, "reason": reason, "time": clock.now(), "traceback": traceback}
    # On a full disk the report is lost. If the file stayed where it is, every scan would find it again.
    with contextlib.suppress(OSError):
        files.write(f"{target}.json", json.dumps(report, indent=1).encode("utf-8", "backslashreplace"))
    os.rename(path, target)
    return target


def _free(path: str) -> str:
    """Return ``path``, with a number if that name is taken: earlier dead letters are not overwritten."""
    free, count = path, 0
    while os.path.lexists(free) or os.path.lexists(f"{free}.json"):
        count += 1
        free = f"{path}.{count}"
    return free


def paths(spool_dir: str, max_files: int | None = None) -> list[str]:
    """List the files of dead jobs by name.

    Args:
        spool_dir: The spool directory.
        max_files: How many files are listed at most: the first that the system names; ``None``: all.

    Returns:
        The paths.

    Raises:
        OSError: The folder cannot be read.
    """
    return sorted(islice(_paths(spool_dir), max_files))


def names(spool_dir: str) -> list[str]:
    """Return the names of the entries of the folder that are no reports, without looking at the entries.

    There may be 100,000, and each has a report: they are listed again only once the folder has changed.

    Raises:
        OSError: The folder cannot be read.
    """
    folder, listed, now = os.path.join(spool_dir, FOLDER), _listed.get(), clock.now()
    mark = changes.mark(folder)
    if (known := listed.get(folder)) is not None and known[0] == mark:
        return known[1]
    try:
        found = os.listdir(folder)
    except FileNotFoundError:
        return []
    shown = [name for name in found if name[-5:] != ".json" and (".json" not in name or not _REPORT.search(name))]
    if now - mark.changed / 1e9 > SETTLED:
        listed[folder] = mark, shown
    return shown


def _paths(spool_dir: str, max_entries: int | None = None) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(spool_dir, FOLDER)) as entries:
        for entry in islice(entries, max_entries):
            if _is_job_file(entry):
                yield entry.path


def _is_job_file(entry: os.DirEntry[str]) -> bool:
    return not _REPORT.search(entry.name) and entry.is_file(follow_symlinks=False)


def locate(spool_dir: str, id: str, known: str | None = None, *, max_entries: int | None = None) -> str | None:
    """Find the file of a dead job.

    Args:
        spool_dir: The spool directory.
        id: The id of the job.
        known: A name that the file has had; ``None``: not known.
        max_entries: How many entries of the folder are read at most; ``None``: all. If there are more, the file is
            found under its first name and under ``known``.

    Returns:
        The path of the file; ``None`` if there is none.

    Raises:
        OSError: This user may not look into the folder.
    """
    names = {known, f"{PREFIX}{id}", id} - {None}
    for path in (os.path.join(spool_dir, FOLDER, str(name)) for name in names):
        if not _REPORT.search(path) and files.is_regular(path):
            return path
    if not is_id(id):
        return None
    return next((path for path in _paths(spool_dir, max_entries) if id_of(os.path.basename(path)) == id), None)


def report(path: str) -> dict[str, Any]:
    """Return the report on a dead job's file: ``task``, ``reason``, ``time``, ``traceback``; empty if there is none."""
    try:
        found = json.loads(files.read(f"{path}.json", REPORT_LIMIT) or b"{}")
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def requeue(path: str, folder: str) -> str:
    """Move the file of a dead job back to the jobs that wait. It is due now.

    Args:
        path: The path of the file.
        folder: The spool directory, or the folder of a priority in it.

    Returns:
        The new path.

    Raises:
        FileNotFoundError: Another process has moved the file already.
        OSError: The file cannot be moved.
    """
    name = os.path.basename(path)
    known = id_of(name)
    target = os.path.join(folder, name if known is None else f"{PREFIX}{known}")
    os.utime(path, ns=ns_of(due_now()))
    os.rename(path, target)
    files.remove(f"{path}.json")
    return target


def sweep(spool_dir: str) -> None:
    """Remove incomplete reports whose writer has died. Never raises."""
    files.sweep(os.path.join(spool_dir, FOLDER), _UNFINISHED)


def delete(path: str) -> None:
    """Delete the file of a dead job, and its report. Raises ``OSError``, but not if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    files.remove(f"{path}.json")


def delete_older(spool_dir: str, before: float, limit: int) -> int:
    """Delete files of jobs that died long ago.

    Args:
        spool_dir: The spool directory.
        before: The jobs died before this time, in unix seconds.
        limit: How many are deleted at most.

    Returns:
        How many were deleted.

    Raises:
        OSError: The folder cannot be read, or a file cannot be deleted.
    """
    old, newest = [], first_id(before + 2)
    with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(spool_dir, FOLDER)) as entries:
        for entry in entries:
            # The time of the last change: that of the content is when the job is due, perhaps years ahead.
            if (id_of(entry.name) or "") > newest:
                continue  # enqueued after that time: it cannot have died before, and there may be 100,000 such files
            if _is_job_file(entry) and entry.stat(follow_symlinks=False).st_ctime < before:
                old.append(entry.path)
                if len(old) == limit:
                    break
    deleted = 0
    for path in old:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            deleted += 1
        files.remove(f"{path}.json")
    return deleted
