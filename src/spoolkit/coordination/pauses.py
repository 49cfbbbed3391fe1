"""Which tasks are paused, and where do their jobs wait? Each is parked once, and is not looked at again until resumed.

The mark of a pause is a file. Who parks a job looks at the mark again afterwards, and who resumes a task removes the
mark first: so no job is left behind. After a kill in between, a sweep moves back what is parked without a mark.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from itertools import islice

from spoolkit.registry import Declared
from spoolkit.spooldir import gate, parked, spoolers, spoolfile
from spoolkit.system import log

MAX_GROUPS = 100
"""Groups of parked jobs in which a job is searched for: each key of a limit may have one, so there may be thousands."""


@lru_cache(maxsize=256)
def group(task: str) -> str:
    """Return the name of the group in which jobs of this task are parked while it is paused."""
    return "t" + hashlib.sha256(task.encode("utf-8", "backslashreplace")).hexdigest()[:31]


def is_paused(spool_dir: str, task: str) -> bool:
    """Return whether no job of the task starts in this spool directory."""
    return os.access(_mark(spool_dir, task), os.F_OK)


@lru_cache(maxsize=256)
def _mark(spool_dir: str, task: str) -> str:
    return gate.mark_of_task(spool_dir, group(task))


def paused_name(spool_dir: str, declared: Declared) -> str | None:
    """Return under which of its names, earlier ones among them, a task is paused; ``None`` if it is not."""
    for name in declared.names:
        if os.access(_mark(spool_dir, name), os.F_OK):
            return name
    return None


def pause(spool_dir: str, task: str) -> None:
    """Start no job of the task until :func:`resume`. Raises ``OSError``."""
    gate.pause_task(spool_dir, group(task), task)


def resume(spool_dir: str, task: str) -> bool:
    """Start jobs of the task again, those that wait first. Returns whether it was paused. Raises ``OSError``."""
    was_paused = gate.resume_task(spool_dir, group(task))
    _move_back(spool_dir, group(task))
    return was_paused


def park(path: str, spool_dir: str, task: str) -> None:
    """Have a job, whose file the caller has locked, wait until its task is resumed. Never raises ``OSError``."""
    if is_parked(path):
        return  # a test runs all jobs that wait, also those that are parked
    try:
        new = parked.park(path, spool_dir, group(task))
        if not is_paused(spool_dir, task):
            parked.move_back(new, spool_dir)  # it was resumed in between
        if not os.path.lexists(new):
            # Perhaps another process has moved it back, and called a spooler while this one had the lock.
            spoolers.wake(spool_dir, spoolfile.id_of(os.path.basename(path)))
    except FileNotFoundError:
        pass  # another process was here, with the lock that a task has dropped
    except OSError as error:
        log.complain("a job of %s, which is paused, cannot be parked and is looked at again: %s", task, error)


def tasks(spool_dir: str) -> dict[str, int]:
    """Return the paused tasks, each with the number of jobs that are parked for it. Never raises ``OSError``."""
    return {task: len(parked.paths_of(spool_dir, name)) for name, task in sorted(gate.paused_tasks(spool_dir).items())}


def find_parked(spool_dir: str, id: str, known: str | None) -> str | None:
    """Return the path of the file of a job that is parked because its task is paused: see :func:`parked.find`."""
    if not spoolfile.is_id(id):
        return None  # no folder is read for what a visitor made up
    names = list(islice(parked.groups(spool_dir), MAX_GROUPS))
    if len(names) == MAX_GROUPS:
        names += gate.paused_tasks(spool_dir)
    found = (parked.find(spool_dir, name, id, known) for name in names if _is_of_task(name))
    return next(filter(None, found), None)


def is_parked(path: str) -> bool:
    """Return whether the job in the file ``path`` waits until its task is resumed."""
    return _is_of_task(parked.group_of(path) or "")


def _is_of_task(group: str) -> bool:
    return group.startswith("t")


def sweep(spool_dir: str) -> None:
    """Move back jobs that are parked for a task which is not paused. Raises ``OSError``."""
    for name in list(parked.groups(spool_dir)):
        if _is_of_task(name) and not gate.is_task_paused(spool_dir, name):
            _move_back(spool_dir, name)


def _move_back(spool_dir: str, name: str) -> None:
    """Move back all jobs of a group, in the order in which they were due."""
    paths = parked.paths_of(spool_dir, name)
    for path in paths:
        parked.move_back(path, spool_dir)
    parked.remove_if_empty(spool_dir, name)
    if paths:
        spoolers.wake_all(spool_dir)
