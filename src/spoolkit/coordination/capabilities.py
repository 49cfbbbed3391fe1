"""Which engine carries a call, and what cannot a job have whose attempts run in workers? Each is refused by name.

What needs to know all jobs that run, of all machines, at one moment is exact on one machine and could only be guessed
between several; and some things are not made yet. ``docs/celery.md`` has the same table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from spoolkit.errors import ArgumentError
from spoolkit.job import TaskOptions
from spoolkit.registry import Declared
from spoolkit.settings import Settings


class Refusal(NamedTuple):
    """An option that a job in a worker cannot have."""

    #: Its name, as the application writes it.
    option: str
    #: What would be needed, for people.
    missing: str
    #: Whether a task is declared with it.
    is_declared: Callable[[TaskOptions], bool]


REFUSED = (
    Refusal(
        "limit",
        "running jobs are counted by their living processes, and those of other machines are not seen",
        lambda options: options.limit is not None,
    ),
    Refusal(
        "rate",
        "a slot is for the start of a job, and a job in a broker starts when a worker is free",
        lambda options: options.rate is not None,
    ),
    Refusal(
        "memory",
        "a worker's process does more than to run the task, and cannot be limited for it",
        lambda options: options.memory is not None,
    ),
)
"""Options of a task."""


def engine_of(declared: Declared, config: Settings) -> str:
    """Return the engine of a job of ``@spool`` that is made now: the declaration comes before the setting."""
    return declared.options.engine or config.engine


def refusal(declared: Declared) -> Refusal | None:
    """Return the option for which no job of a task may run in a worker; ``None``: it has none."""
    return next((one for one in REFUSED if one.is_declared(declared.options)), None)


def check(declared: Declared, engine: str) -> None:
    """Refuse a task whose jobs ``engine`` cannot carry as it promises.

    Raises:
        ArgumentError: It has an option that only works on one machine.
    """
    if (refused := refusal(declared)) is not None:
        raise ArgumentError(
            f"{declared.name} is declared with {refused.option}=, which the engine {engine} cannot keep: "
            f'{refused.missing}. Leave it out, or keep the task on this machine: @spool(engine="spool")',
            argument=refused.option,
        )
