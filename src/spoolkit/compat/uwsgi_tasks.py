"""The names of uwsgi_tasks, for a site that leaves uWSGI, or that wants its jobs bounded there: docs/compat.md.

Under uWSGI timers, crons and signals are those of uwsgi_tasks itself. Elsewhere each name works, or raises an error at
its declaration that says what stands in its place.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeVar, overload

from spoolkit.compat import refused, timed
from spoolkit.compat.library_tasks import RetryTaskException, Task, TaskExecutor, get_current_task
from spoolkit.errors import ConfigurationError
from spoolkit.job import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY
from spoolkit.uwsgi import bridge

F = TypeVar("F", bound=Callable[..., Any])

if bridge.is_uwsgi():
    try:
        from uwsgi_tasks import CronTask, SignalTask, TimerTask, cron, cron_lazy, timer, timer_lazy
    except ModuleNotFoundError:
        CronTask, SignalTask, TimerTask, cron, cron_lazy, timer, timer_lazy = map(
            refused.missing, ("CronTask", "SignalTask", "TimerTask", "cron", "cron_lazy", "timer", "timer_lazy")
        )
else:
    CronTask, SignalTask, TimerTask, cron_lazy, timer_lazy = map(
        refused.refusing_task, ("CronTask", "SignalTask", "TimerTask", "cron_lazy", "timer_lazy")
    )

    def timer(
        func: F | None = None,
        seconds: int = 0,
        iterations: int | None = None,
        executor: int = TaskExecutor.AUTO,
        **setup: Any,
    ) -> Any:
        """Have a function called each ``seconds`` seconds, with one argument.

        Args:
            func: The function; ``None``: return a decorator.
            seconds: Seconds, 1 or more. They count from the epoch (1970, UTC), and not from a start of the server.
            iterations: Refused: there is no start from which the calls would be counted.
            executor: Has no effect: a process of ``flask spool run`` calls it.
            setup: ``signal``, the number that the function gets; ``target``, the kind of process that calls it.

        Raises:
            ConfigurationError: An argument cannot be used without uWSGI.
        """
        if iterations is not None:
            raise ConfigurationError(
                f"@timer(iterations={iterations!r:.80}) counts its calls from a start of uWSGI: leave it out, and let "
                "the function itself decide whether there is something to do",
                setting="iterations",
            )
        declare = timed.timer(seconds, **_signal(setup))
        return declare if func is None else declare(func)

    def cron(
        func: F | None = None,
        minute: int = -1,
        hour: int = -1,
        day: int = -1,
        month: int = -1,
        dayweek: int = -1,
        executor: int = TaskExecutor.AUTO,
        **setup: Any,
    ) -> Any:
        """Have a function called at these minutes of the local time, with one argument.

        Args:
            func: The function; ``None``: return a decorator.
            minute: 0 to 59; -1: each one; -5: each that 5 divides.
            hour: 0 to 23.
            day: The day of the month, 1 to 31.
            month: 1 to 12.
            dayweek: 0 to 6, from Sunday on; 7 is Sunday as well.
            executor: Has no effect: a process of ``flask spool run`` calls it.
            setup: As for :func:`timer`.

        Raises:
            ConfigurationError: An argument cannot be used without uWSGI, or the cron would never fire.
        """
        declare = timed.cron(minute, hour, day, month, dayweek, **_signal(setup))
        return declare if func is None else declare(func)

    def _signal(setup: dict[str, Any]) -> dict[str, Any]:
        """The options of a timer, by the names that they have in uwsgidecorators."""
        # That of uWSGI's spooler is the directory in which the site was started, as it is here.
        options = {key: value for key, value in setup.items() if key != "working_dir" and value is not None}
        return {{"signal": "signum"}.get(key, key): value for key, value in options.items()}


@overload
def task(func: Callable[..., Any], executor: int = ..., **setup: Any) -> Task: ...
@overload
def task(func: None = ..., executor: int = ..., **setup: Any) -> Callable[[Callable[..., Any]], Task]: ...
def task(func: Callable[..., Any] | None = None, executor: int = TaskExecutor.AUTO, **setup: Any) -> Any:
    """Declare a function whose calls are jobs.

    Args:
        func: The function; ``None``: return a decorator.
        executor: ``TaskExecutor.RUNTIME``: a call runs at once, in its caller. All others are jobs for a spooler.
        setup: ``at``, ``priority``, ``spooler``, ``retry_count``, ``retry_timeout``, ``working_dir`` and
            ``spooler_return``, as uwsgi_tasks has them.

    Raises:
        ConfigurationError: An option is not known, or has a value that cannot be used.
    """

    def declare(function: Callable[..., Any]) -> Task:
        return Task(function, executor, **setup)

    return declare if func is None else declare(func)


def set_uwsgi_callbacks() -> None:
    """Do nothing: spoolkit's handler is in its place already."""


def django_setup(settings_module: str | None = None) -> None:
    """Prepare Django, unless that is done.

    Args:
        settings_module: The module with its settings. ``None``: the one that ``DJANGO_SETTINGS_MODULE`` names.
    """
    if importlib.import_module("django.conf").settings.configured:
        return
    if settings_module:
        os.environ["DJANGO_SETTINGS_MODULE"] = settings_module
    importlib.import_module("django").setup()


__all__ = [
    "SPOOL_IGNORE",
    "SPOOL_OK",
    "SPOOL_RETRY",
    "CronTask",
    "RetryTaskException",
    "SignalTask",
    "Task",
    "TaskExecutor",
    "TimerTask",
    "cron",
    "cron_lazy",
    "django_setup",
    "get_current_task",
    "set_uwsgi_callbacks",
    "task",
    "timer",
    "timer_lazy",
]
