"""How are queues paused, drained and resumed, and one task in all spool directories or in one?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from spoolkit import registry
from spoolkit.coordination import pauses
from spoolkit.errors import (
    ConfigurationError,
    PartlyPausedError,
    SpoolUnavailableError,
    UnknownQueueError,
    UnknownTaskError,
    shown,
)
from spoolkit.spooldir import gate, spoolers
from spoolkit.store import locations
from spoolkit.system import files


def pause(task: str, spool_dirs: Iterable[str] | None = None) -> str:
    """Start no job of a task until :func:`resume`.

    Args:
        task: The name of the task, or one of its aliases.
        spool_dirs: The spool directories. ``None``: all that are known.

    Returns:
        The name of the task.

    Raises:
        UnknownTaskError: No task of this name is declared in this process.
        ConfigurationError: It is a task of ``@thread``, whose jobs wait in the memory of their processes.
        SpoolUnavailableError: No spool directory can be changed.
        PartlyPausedError: Some cannot be changed.
    """
    declared = registry.find(task)
    if declared.engine != "spool":
        raise ConfigurationError(
            f"{declared.name} cannot be paused: its jobs run in the processes that call it. Declare it with @spool",
            setting="task",
        )
    known = locations.spool_dirs() if spool_dirs is None else spool_dirs
    change_each(known, lambda spool_dir: pauses.pause(spool_dir, declared.name))
    return declared.name


def resume(task: str, spool_dirs: Iterable[str] | None = None) -> str:
    """Start the jobs of a task again. The arguments are those of :func:`pause`.

    A task that this process does not declare can be resumed by the name that it had. Of a task that was renamed, a
    pause by an earlier name ends as well.
    """
    names: tuple[str, ...] = (task,)
    try:
        names = registry.find(task).names
    except UnknownTaskError:
        if not any(task in gate.paused_tasks(spool_dir).values() for spool_dir in locations.spool_dirs()):
            raise

    def resume_in(spool_dir: str) -> None:
        for name in names:
            pauses.resume(spool_dir, name)

    change_each(locations.spool_dirs() if spool_dirs is None else spool_dirs, resume_in)
    return names[0]


def directory_of(queue: str) -> str:
    """Return the spool directory of a queue.

    Args:
        queue: Its name; the path, or the last part of the path, of a spool directory that is known.

    Raises:
        UnknownQueueError: There is no such queue.
        SpoolUnavailableError: This process may not read the directory.
    """
    named, known = locations.queue_dirs(), locations.spool_dirs()
    found = named.get(queue) or next((path for path in known if queue in (path, os.path.basename(path))), None)
    if found is None:
        raise UnknownQueueError(
            f"{shown(queue)} is no queue: give one of {', '.join(named)}, or a spool directory such as "
            f"{', '.join(known)}",
            queue=queue,
        )
    files.check_readable(found)
    return found


def pause_queues(spool_dirs: Sequence[str]) -> None:
    """Start no job of these spool directories until :func:`resume_queues`. Raises as :func:`change_each`."""
    change_each(spool_dirs, gate.pause)


def drain_queues(spool_dirs: Sequence[str]) -> None:
    """Start no job of these spool directories until uWSGI starts again. Raises as :func:`change_each`."""
    change_each(spool_dirs, gate.pause_until_start)


def resume_queues(spool_dirs: Sequence[str]) -> None:
    """Start jobs of these spool directories again. Raises as :func:`change_each`."""
    change_each(spool_dirs, gate.resume)
    for spool_dir in spool_dirs:
        spoolers.wake_all(spool_dir)


def change_each(spool_dirs: Iterable[str], change: Callable[[str], object]) -> None:
    """Call ``change(spool_dir)`` for each spool directory, also after it failed for one.

    Raises:
        SpoolUnavailableError: No spool directory can be changed.
        PartlyPausedError: Some cannot be changed.
    """
    changed, failed = list[str](), dict[str, SpoolUnavailableError]()
    for spool_dir in spool_dirs:
        try:
            change(spool_dir)
        except (FileNotFoundError, PermissionError) as error:
            failed[spool_dir] = files.unavailable(spool_dir, error)
        except OSError as error:
            problem = f"the spool directory {spool_dir} cannot be changed: {error.strerror or error}"
            failed[spool_dir] = SpoolUnavailableError(problem, directory=spool_dir, errno=error.errno)
        else:
            changed.append(spool_dir)
    for reason in failed.values():
        if not changed:
            raise reason
        raise PartlyPausedError(
            f"done in {', '.join(changed)}, but not in {', '.join(failed)}: {reason}; then do it again",
            changed=tuple(changed),
            failed=tuple(failed),
            errno=reason.errno,
        )
