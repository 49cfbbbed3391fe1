"""Which periodic tasks does this process declare? What :func:`spoolkit.periodic` stands for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from spoolkit import registry
from spoolkit.coordination import capabilities
from spoolkit.encoding import codec
from spoolkit.errors import ArgumentError, ConfigurationError, shown
from spoolkit.registry import Declared
from spoolkit.schedules.schedule import Schedule, checked


def add(
    task: object,
    name: str | None,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    options: Mapping[str, object],
) -> Schedule:
    """Declare that ``task`` runs by itself.

    Args:
        task: A task of ``@spool``.
        name: The name of the schedule. ``None``: that of the task, with a number if it has other schedules already.
        args: The positional arguments of each run.
        kwargs: The arguments by name.
        options: The other arguments of :func:`spoolkit.periodic`.

    Raises:
        ConfigurationError: An option cannot be used, the name is taken, or ``task`` is no task of ``@spool``.
    """
    declared = getattr(task, "declared", None)
    if not isinstance(declared, Declared) or declared.engine != "spool":
        raise ConfigurationError(
            f"{shown(task)} cannot be periodic: write @periodic(...) above @spool. A @thread task belongs to one "
            "process, and a plain function is no task",
            setting="task",
        )
    if declared.options.engine == "celery":
        try:
            capabilities.check(declared, "celery")
        except ArgumentError as error:  # no call would get it
            raise ConfigurationError(str(error), setting=error.argument) from None
    if os.path.isabs(declared.options.queue or ""):
        raise ConfigurationError(
            f"{declared.name} is declared for the queue {declared.options.queue!r}, but the runs of a schedule need a "
            "queue with a name: give that directory one in SPOOLKIT_QUEUES",
            setting="queue",
        )
    made = checked(
        _free_name(declared) if name is None else name, declared.name, call=_encoded(declared, args, kwargs), **options
    )
    other = here().get(made.name)
    if other is not None and (other.task != made.task or name is None or other != made):
        raise ConfigurationError(
            f"the schedule {made.name} is declared already, for the task {other.task}: give each a name= of its own",
            setting="name",
        )
    registry.this_process.schedules[made.name] = (made, declared)
    return made


def here() -> dict[str, Schedule]:
    """The schedules that this process declares, by name, without those of tasks that were declared again since."""
    tasks = registry.this_process.tasks
    entries = registry.this_process.schedules.values()
    return {schedule.name: schedule for schedule, declared in entries if tasks.get(declared.name) is declared}


def _free_name(declared: Declared) -> str:
    taken, number = here(), 2
    if declared.name not in taken:
        return declared.name
    while (name := f"{declared.name} {number}") in taken:
        number += 1
    return name


def _encoded(declared: Declared, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    if problem := declared.mismatch(args, kwargs):
        raise ConfigurationError(
            f"{declared.name} cannot be periodic with these args and kwargs: {problem}", setting="args"
        )
    try:
        return codec.encode_call(args, dict(kwargs), declared.positional)
    except ArgumentError as error:
        raise ConfigurationError(f"{declared.name} cannot be periodic: {error}", setting="args") from error
