"""How do timers and crons of uwsgidecorators fire without uWSGI? Each is a schedule, whose due times are jobs.

So each due time runs once, however many processes there are, and in a process of ``flask spool run``.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from spoolkit import callables
from spoolkit.attempt.current_job import current_job
from spoolkit.compat.crons import Cron
from spoolkit.errors import ConfigurationError, shown
from spoolkit.job import TaskOptions
from spoolkit.lifecycle import sweeping
from spoolkit.schedules import declared, ticks
from spoolkit.schedules.schedule import is_zone
from spoolkit.spooling import handler
from spoolkit.spooling.engine import SpoolEngine
from spoolkit.system import log
from spoolkit.task import SpoolTask

F = TypeVar("F", bound=Callable[..., Any])

ONE_PROCESS = ("", "worker", "worker0", "spooler", "mule")
"""Targets of a signal that have one process call the function, whichever that is."""

ZONES = "/zoneinfo/"
"""What is before the name of a zone in the path of its file."""

_numbers = count()


def get_free_signal() -> int:
    """Return a number that no other declaration has."""
    return next(_numbers)


def timer(secs: int, **kwargs: Any) -> Callable[[F], F]:
    """Have a function called each ``secs`` seconds.

    Args:
        secs: Seconds, 1 or more. They count from the epoch (1970, UTC), and not from a start of the server.
        kwargs: ``signum``, the number that the function gets; ``target``, the kind of process that calls it.

    Raises:
        ConfigurationError: An argument cannot be used without uWSGI.
    """
    return _declaring(f"timer({secs})", kwargs, {"every": secs})


def rbtimer(secs: int, **kwargs: Any) -> Callable[[F], F]:
    """As :func:`timer`."""
    return _declaring(f"rbtimer({secs})", kwargs, {"every": secs})


def cron(minute: int, hour: int, day: int, month: int, dayweek: int, **kwargs: Any) -> Callable[[F], F]:
    """Have a function called at these minutes of the local time: a value each, -1 for any, or a step such as -5.

    Args:
        minute: 0 to 59.
        hour: 0 to 23.
        day: The day of the month, 1 to 31.
        month: 1 to 12.
        dayweek: 0 to 6, from Sunday on; 7 is Sunday as well.
        kwargs: As for :func:`timer`.

    Raises:
        ConfigurationError: An argument cannot be used without uWSGI, or the cron would never fire.
    """
    rule, zone = Cron(minute, hour, day, month, dayweek), local_zone(os.environ)
    what = f"cron({minute}, {hour}, {day}, {month}, {dayweek})"
    return _declaring(what, kwargs, {"cron": rule.crontab(), "tz": zone}, rule)


def _declaring(
    what: str, kwargs: Mapping[str, Any], when: Mapping[str, object], rule: Cron | None = None
) -> Callable[[F], F]:
    if unknown := kwargs.keys() - {"signum", "target"}:
        raise ConfigurationError(f"@{what} has no option {', '.join(sorted(unknown))}", setting=min(unknown))
    target = kwargs.get("target", "")
    if target not in ONE_PROCESS:
        raise ConfigurationError(
            f"@{what} has the target {shown(target)}, which without uWSGI is no process, or several: leave it out, and "
            "one process of flask spool run calls the function",
            setting="target",
        )
    signum = kwargs.get("signum")
    number = get_free_signal() if signum is None else signum

    def declare(f: F) -> F:
        callables.check(f)
        if lazy := callables.kind_of_lazy(f):
            raise callables.refusal(f, f"it is {lazy}, which uWSGI would not run")
        handler.install()
        # Each due time is followed by the next one: an attempt that fails is neither repeated nor kept as dead.
        options = TaskOptions(retries=0, discard_on=(Exception,), engine="spool")
        name = f"{f.__module__}.{f.__qualname__}@{what}"
        task = SpoolTask(_runner(f, rule, when.get("tz")), SpoolEngine(), options, name)
        declared.add(task, None, (number,), {}, {**when, "missed": "skip"})
        sweeping.add(ticks.reconcile)
        return f

    return declare


def _runner(f: Callable[..., Any], rule: Cron | None, zone: object) -> Callable[..., None]:
    """The function of the task: it calls ``f``, if the rule of a cron says so for the due time."""

    @functools.wraps(f)
    def run(signum: int) -> None:
        job = current_job()
        if rule is not None and job.schedule is not None and job.run_at is not None:
            local = datetime.fromtimestamp(job.run_at, UTC if zone == "UTC" else ZoneInfo(str(zone)))
            if not rule.matches(local):
                return
        try:
            f(signum)
        except Exception as error:
            log.error("%s failed, and runs again at its next due time", callables.name(f), error=error)
            raise

    return run


def local_zone(environ: Mapping[str, str], localtime: str = "/etc/localtime") -> str:
    """Return the name of the zone of the local time, as :func:`time.localtime` has it.

    Args:
        environ: The environment: ``TZ`` in it names a zone.
        localtime: The link that names it otherwise.

    Raises:
        ConfigurationError: The zone has no name.
    """
    given = environ.get("TZ")
    path = os.path.realpath(localtime) if given is None else given.removeprefix(":")
    name = path.rpartition(ZONES)[2] if ZONES in path else path
    if is_zone(name) and not os.path.isabs(name):
        return name
    if not path or (given is None and not os.path.exists(path)) or time.tzname == ("UTC", "UTC"):
        return "UTC"
    raise ConfigurationError(
        f"the zone of the local time has no name ({'TZ' if given is not None else localtime} is {shown(path)}), and "
        "the times of a cron need one: set TZ, for example to Europe/Berlin",
        setting="TZ",
    )
