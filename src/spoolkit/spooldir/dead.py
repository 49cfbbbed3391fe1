"""The files that were set aside because they cannot run: ``dead/``, each with its reason beside it as JSON.

All by path alone, so that a spooler may set aside the file that it has a lock on.
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
from spoolkit.spooldir.spoolfile import PREFIX, id_of, is_id, ns_of
from spoolkit.system import clock, files

FOLDER = "dead"
REPORT_LIMIT = 4 * 1024 * 1024
"""Bytes of a report that are read."""

_UNFINISHED = rf"\.json{files.TEMPORARY}"
_REPORT = re.compile(rf"\.json$|{_UNFINISHED}")
"""How the name of a reason ends, also while it is being written, and after a kill then; see :func:`files.write`."""


def quarantine(path: str, root: str, *, reason: str, task: str | None = None, traceback: str | None = None) -> str:
    """Set the file aside, into ``root``/dead, with its reason beside it as JSON; returns the new path."""
    folder = os.path.join(root, FOLDER)
    files.make_folder(folder)
    # A stranger's name may be no UTF-8, or leave no room for the ending.
    text = os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace").replace("\\", "_")
    target = _free(os.path.join(folder, text.encode()[:200].decode("utf-8", "ignore")))
    name = os.path.basename(target)
    report = {"file": name, "task": task, "reason": reason, "time": clock.now(), "traceback": traceback}
    # On a full disk the report is lost; were the file left where it is for that, it would come up at every scan.
    with contextlib.suppress(OSError):
        files.write(f"{target}.json", json.dumps(report, indent=1).encode("utf-8", "backslashreplace"))
    os.rename(path, target)
    return target


def _free(path: str) -> str:
    """``path``, numbered where something lies there already: what was set aside earlier stays."""
    free, count = path, 0
    while os.path.lexists(free) or os.path.lexists(f"{free}.json"):
        count += 1
        free = f"{path}.{count}"
    return free


def paths(directory: str, most: int | None = None) -> list[str]:
    """The paths of the files that were set aside, or of the first ``most`` found, by name. Raises ``OSError``."""
    return sorted(islice(_entries(directory), most))


def _entries(directory: str, entries_read: int | None = None) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(directory, FOLDER)) as entries:
        for entry in islice(entries, entries_read):
            if _is_dead_file(entry):
                yield entry.path


def _is_dead_file(entry: os.DirEntry[str]) -> bool:
    return not _REPORT.search(entry.name) and entry.is_file(follow_symlinks=False)


def locate(directory: str, id: str, known: str | None = None, *, max_entries: int | None = None) -> str | None:
    """The path of the job's file among the dead, if need be among the first ``most`` entries. Raises ``OSError``."""
    names = {known, f"{PREFIX}{id}", id} - {None}
    for path in (os.path.join(directory, FOLDER, str(name)) for name in names):
        if not _REPORT.search(path) and files.is_regular(path):
            return path
    if not is_id(id):
        return None
    return next((path for path in _entries(directory, max_entries) if id_of(os.path.basename(path)) == id), None)


def report(path: str) -> dict[str, Any]:
    """Why the file ``path`` was set aside: ``task``, ``reason``, ``time``, ``traceback``; empty where unknown."""
    try:
        found = json.loads(files.read(f"{path}.json", REPORT_LIMIT) or b"{}")
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def requeue(path: str, folder: str) -> str:
    """Move a file that was set aside back into ``folder``, due now; returns the new path.

    Raises ``FileNotFoundError`` if somebody else was faster.
    """
    name = os.path.basename(path)
    known = id_of(name)
    target = os.path.join(folder, name if known is None else f"{PREFIX}{known}")
    os.utime(path, ns=ns_of(clock.now()))
    os.rename(path, target)
    files.remove(f"{path}.json")
    return target


def sweep(root: str) -> None:
    """Remove the reasons whose writer died before they were complete. Never raises."""
    files.sweep(os.path.join(root, FOLDER), _UNFINISHED)


def delete_older(root: str, before: float, limit: int) -> int:
    """Remove up to ``limit`` files that were set aside before ``before`` (unix time); returns how many."""
    old, newest = [], first_id(before + 2)
    with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(root, FOLDER)) as entries:
        for entry in entries:
            # The time of change: that of content is the job's own, and may lie years ahead.
            if (id_of(entry.name) or "") > newest:
                continue  # made since then, so it cannot have died before: there may be 100,000 of them to look at
            if _is_dead_file(entry) and entry.stat(follow_symlinks=False).st_ctime < before:
                old.append(entry.path)
                if len(old) == limit:
                    break
    gone = 0
    for path in old:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            gone += 1
        files.remove(f"{path}.json")
    return gone
