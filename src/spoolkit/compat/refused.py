"""Which names of other libraries cannot work without uWSGI, and what stands in their place?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from spoolkit.errors import ConfigurationError

JOB = "declare the function with @spool, and call it"

OWN = "uWSGI calls it; spoolkit runs jobs by itself, and nothing needs to be called"

TIMER = "declare a @timer or a @cron, or call a task of @spool with using(delay=...)"

INSTEAD = {
    "erlang": "no other server speaks to Erlang's nodes",
    "farm": JOB,
    "farm_loop": JOB,
    "filemon": "watch the file with a path unit of systemd, or in a BackgroundThread",
    "harakiri": "@spoolkit.spool(timeout=...) bounds a job, and the HTTP server's own timeout a request",
    "manage_spool_request": OWN,
    "mule_brain": "write @mule(num)",
    "mule_brainloop": "write @muleloop(num)",
    "mule_msg_dispatcher": OWN,
    "mulemsg": JOB,
    "mulemsg_loop": JOB,
    "postfork_chain_hook": OWN,
    "rpc": "no other server passes on calls between processes: write a view, or a job whose result is waited for",
    "signal": "only uwsgi.signal() raises it: " + JOB,
}
"""What to do in place of each name of uwsgidecorators."""

INSTEAD_OF_TASKS = dict.fromkeys(("CronTask", "SignalTask", "TimerTask", "cron_lazy", "timer_lazy"), TIMER)
"""The same of uwsgi_tasks."""


def refusing(name: str) -> Callable[..., NoReturn]:
    """Return what stands for a name of uwsgidecorators, and raises an error when it is used."""
    return _raising(f"{name} of uwsgidecorators needs uWSGI: {INSTEAD[name]} (docs/compat.md)", name)


def refusing_task(name: str) -> Callable[..., NoReturn]:
    """The same of a name of uwsgi_tasks."""
    return _raising(f"{name} of uwsgi_tasks needs uWSGI: {INSTEAD_OF_TASKS[name]} (docs/compat.md)", name)


def missing(name: str) -> Callable[..., NoReturn]:
    """The same of a name that under uWSGI is that of uwsgi_tasks, which is not installed."""
    return _raising(f"under uWSGI {name} is that of uwsgi_tasks: pip install uwsgi-tasks", name)


def _raising(message: str, name: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise ConfigurationError(message, setting=name)

    refuse.__name__ = refuse.__qualname__ = name
    return refuse
