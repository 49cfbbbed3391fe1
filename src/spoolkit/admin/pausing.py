"""How is one task paused and resumed, in all spool directories or in one?"""

from __future__ import annotations

from collections.abc import Iterable

from spoolkit import registry
from spoolkit.coordination import pauses
from spoolkit.errors import ConfigurationError, UnknownTaskError
from spoolkit.spooldir import gate
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
        SpoolUnavailableError: This process may not change a spool directory.
    """
    declared = registry.find(task)
    if declared.engine != "spool":
        raise ConfigurationError(
            f"{declared.name} cannot be paused: its jobs run in the processes that call it. Declare it with @spool",
            setting="task",
        )
    for spool_dir in locations.spool_dirs() if spool_dirs is None else spool_dirs:
        try:
            pauses.pause(spool_dir, declared.name)
        except OSError as error:
            raise files.unavailable(spool_dir, error) from error
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
    for spool_dir in locations.spool_dirs() if spool_dirs is None else spool_dirs:
        try:
            for name in names:
                pauses.resume(spool_dir, name)
        except OSError as error:
            raise files.unavailable(spool_dir, error) from error
    return names[0]
