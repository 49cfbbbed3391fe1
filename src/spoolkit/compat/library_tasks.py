"""How does a function that uwsgi_tasks would declare become a task, and what does it know of itself?"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from spoolkit import application, callables
from spoolkit.attempt import options as attempt_options
from spoolkit.attempt.current_job import current_job
from spoolkit.compat.spooled import result_of
from spoolkit.encoding import uwsgi_args
from spoolkit.errors import Abort, ConfigurationError, DecodeError, Retry, shown
from spoolkit.handle import Job
from spoolkit.job import SPOOL_OK, SPOOL_RETRY, SpoolResult, TaskOptions
from spoolkit.spooling import handler, other_libraries
from spoolkit.spooling.engine import SpoolEngine
from spoolkit.system import clock
from spoolkit.task import SpoolTask
from spoolkit.uwsgi import bridge

WITHOUT_EFFECT = frozenset({"mule", "signal", "target"})
"""Options of stock for a process of uWSGI that calls the function; here a spooler does."""

OPTIONS = frozenset({"at", "priority", "retry_count", "retry_timeout", "spooler", "spooler_return", "working_dir"})
"""Options of a task that mean something."""


class TaskExecutor:
    """Where a function runs: ``RUNTIME``: in its caller; all others: in a spooler."""

    AUTO = 1
    SPOOLER = 2
    MULE = 3
    RUNTIME = 4


class RetryTaskException(Exception):  # noqa: N818 - the name of uwsgi_tasks
    """Raised by a function to be run again.

    Args:
        count: How many more times it may run, this time among them; ``None``: as it was declared.
        timeout: Seconds until then, also as a timedelta; ``None``: as it was declared.
    """

    def __init__(self, count: int | None = None, timeout: float | timedelta | None = None) -> None:
        super().__init__("the function asks to be run again")
        self.count = count
        self.timeout = timeout


class CurrentTask:
    """The task that is running, as ``get_current_task()`` returns it to its function.

    Args:
        task: What was declared.
        args: The positional arguments of the job.
        kwargs: Those by name.
        state: What the attempt before has left.
    """

    def __init__(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any], state: dict[str, Any]) -> None:
        #: The function, and its name.
        self.function, self.function_name = task.function, task.function_name
        #: The executor and the options of the declaration.
        self.executor, self.setup = task.executor, dict(task.setup)
        #: The arguments.
        self.args, self.kwargs = args, kwargs
        #: How many more times it may run, this time among them.
        self.retry_count: int = state.get("retry_count", task.retry_count)
        #: Seconds until it runs again.
        self.retry_timeout: float = state.get("retry_timeout", task.retry_timeout)
        #: A dict that the next attempt gets as this one leaves it: of supported types, 64 KiB at most.
        self.buffer: dict[Any, Any] = state.get("buffer", {})

    def retry(self, count: int | None = None, timeout: float | timedelta | None = None) -> NoReturn:
        """Have the job run again, or give it up, as :class:`RetryTaskException` says."""
        left = (count or self.retry_count) - 1
        delay = _seconds(timeout) or self.retry_timeout
        if left < 1:
            current_job().checkpoint({"buffer": dict(self.buffer)})  # whoever retries it gives it all attempts again
            raise Abort(f"{self.function_name} asked to be run again, and has run as often as its retry_count says")
        current_job().checkpoint({"retry_count": left, "retry_timeout": delay, "buffer": dict(self.buffer)})
        raise Retry(delay=delay)


_current: ContextVar[CurrentTask | None] = ContextVar("spoolkit.compat.current_task", default=None)


def get_current_task() -> CurrentTask | None:
    """Return the task that is running here; ``None`` outside of one."""
    return _current.get()


class Task:
    """What ``@task`` makes of a function: to call it is to enqueue a job.

    Args:
        func: The function.
        executor: Where it runs: see :class:`TaskExecutor`.
        setup: The options of the declaration.

    Raises:
        ConfigurationError: An option is not known, or has a value that cannot be used.
    """

    def __init__(self, func: Callable[..., Any], executor: int = TaskExecutor.AUTO, **setup: Any) -> None:
        callables.check(func)
        if lazy := callables.kind_of_lazy(func):
            raise callables.refusal(func, f"it is {lazy}, which uwsgi_tasks would not run: use spoolkit.spool")
        if unknown := setup.keys() - OPTIONS - WITHOUT_EFFECT:
            names = ", ".join(sorted(unknown))
            raise ConfigurationError(f"@task has no option {names} without uwsgi_tasks", setting=min(unknown))
        #: The function itself.
        self.function = func
        #: The name of its module, and its own.
        self.function_name = f"{func.__module__}.{func.__name__}"
        #: Where it runs.
        self.executor = executor
        #: The options of each call, which may be changed.
        self.setup = setup
        self._check()
        handler.install()
        options = TaskOptions(retry_on=(), engine="spool")
        #: The task of spoolkit, for what uwsgi_tasks does not know.
        self.task: SpoolTask[..., Any] = SpoolTask(self._runner(), SpoolEngine(), options)
        other_libraries.adopters[self.function_name] = self._refuse_pickle

    @property
    def retry_count(self) -> int:
        """How many times it may run, if it asks for it."""
        return self.setup.get("retry_count") or 0

    @property
    def retry_timeout(self) -> float:
        """Seconds until it runs again."""
        return _seconds(self.setup.get("retry_timeout"))

    def _check(self) -> None:
        try:
            attempt_options.retries(self.retry_count)
            _ = self.retry_timeout
            self._options()
        except ValueError as error:
            raise ConfigurationError(f"@task above {self.function_name}: {error}", setting="setup") from error

    def _options(self) -> dict[str, Any]:
        """The options of a call. Raises :class:`ArgumentError`."""
        found: dict[str, Any] = {}
        at, setup = self.setup.get("at"), self.setup
        if isinstance(at, timedelta):
            found["delay"] = max(0.0, at.total_seconds())
        elif isinstance(at, datetime):
            found["at"] = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        elif at:
            found["at"] = uwsgi_args.at(at, now=clock.now())
        if setup.get("priority") is not None:
            found["priority"] = uwsgi_args.priority(setup["priority"])
        if setup.get("spooler") is not None:
            found["queue"] = os.path.realpath(uwsgi_args.spool_dir(setup["spooler"]))
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Job[Any] | None:
        """Enqueue a job.

        Returns:
            The job, which is accepted by then; ``None`` with ``TaskExecutor.RUNTIME``, where the function has run.

        Raises:
            ArgumentError: The arguments do not fit the function, or are of a type that is not supported. As with each
                error, nothing was accepted.
            SpoolUnavailableError: The spool directory takes no job now.
        """
        if self.executor == TaskExecutor.RUNTIME:
            with self._as_current(args, kwargs, {}):
                self.function(*args, **kwargs)
            return None
        # How often a function may ask for it is counted by itself; this bounds also what kills its process.
        retries = max(application.settings().compat_retries, self.retry_count - 1)
        return self.task.using(retries=retries, **self._options())(*args, **kwargs)

    @contextlib.contextmanager
    def _as_current(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], state: dict[str, Any]
    ) -> Iterator[CurrentTask]:
        here, folder = os.getcwd(), self.setup.get("working_dir")
        current = CurrentTask(self, args, kwargs, state)
        token = _current.set(current)
        try:
            if folder and os.path.exists(folder):
                os.chdir(folder)
            yield current
        finally:
            os.chdir(here)
            _current.reset(token)

    def _runner(self) -> Callable[..., SpoolResult]:
        """The function of the task, which calls the one that was declared."""

        @functools.wraps(self.function)
        def run(*args: Any, **kwargs: Any) -> SpoolResult:
            with self._as_current(args, kwargs, current_job().resume({})) as current:
                try:
                    returned = self.function(*args, **kwargs)
                except RetryTaskException as error:
                    current.retry(error.count, error.timeout)
                if reason := callables.unfinished(returned):
                    raise Abort(reason)
                if self.setup.get("spooler_return"):
                    return result_of(self.function_name, returned)
                if type(returned) in (int, SpoolResult) and returned == SPOOL_RETRY:
                    current.retry()
                return SPOOL_OK

        return run

    def _refuse_pickle(self, env: bridge.Env) -> NoReturn:
        raise DecodeError(
            f"uwsgi_tasks has pickled this job of {self.function_name}, and spoolkit unpickles nothing: call the "
            "function again, or let uWSGI run the job while uwsgi_tasks is installed"
        )

    def __repr__(self) -> str:
        return f'<TaskFactory: "{self.function_name}">'


def _seconds(timeout: object) -> float:
    if timeout is None:
        return 0.0
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
        raise ConfigurationError(
            f"retry_timeout is {shown(timeout)}: give seconds, or a timedelta", setting="retry_timeout"
        )
    return float(seconds)
