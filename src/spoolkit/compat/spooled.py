"""How does a function that uwsgidecorators would declare become a task? It is called as that library calls it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from spoolkit import application, callables
from spoolkit.attempt.current_job import current_job
from spoolkit.coordination import successors
from spoolkit.encoding import codec, uwsgi_args
from spoolkit.errors import (
    Abort,
    ArgumentTypeError,
    DecodeError,
    QueueOptionError,
    SignatureError,
    StoreUnavailableError,
    shown,
)
from spoolkit.handle import Job
from spoolkit.job import SPOOL_OK, SPOOL_RETRY, JobSpec, SpoolResult, TaskOptions, id_after
from spoolkit.spooldir import spoolfile
from spoolkit.spooling import handler, other_libraries, standalone
from spoolkit.spooling.engine import SpoolEngine
from spoolkit.store import locations
from spoolkit.system import clock, log
from spoolkit.task import SpoolTask
from spoolkit.uwsgi import bridge

FREQUENCIES = "spooler-frequency", "spooler-freq"
"""The options of uWSGI that say how many seconds pass between two scans of the spool directory."""

OPTIONS = "at", "priority", "spooler"
"""The arguments that are options of the call."""

_WRITTEN_AT = re.compile(r"_(\d+)_(\d+)(?:\.\d+)?$")
"""The end of the name that uWSGI gives a spool file: seconds and microseconds."""

functions: dict[str, Callable[..., Any]] = {}
"""The functions that are declared, by their names; of two with one name, the later one."""


class SpooledFunction:
    """What ``@spool``, ``@spoolraw`` and ``@spoolforever`` make of a function: to call it is to enqueue a job.

    Args:
        f: The function.
        pass_arguments: Whether it gets the arguments of the call; otherwise it gets one dict, with text as values.
        fixed: What follows for the job when the function has returned; ``None``: what it returns.

    Raises:
        TaskFunctionError: ``f`` cannot be a task.
    """

    def __init__(self, f: Callable[..., Any], pass_arguments: bool = False, fixed: SpoolResult | None = None) -> None:
        callables.check(f)
        if lazy := callables.kind_of_lazy(f):
            raise callables.refusal(f, f"it is {lazy}, which uwsgidecorators would not run: use spoolkit.spool")
        #: The function itself.
        self.f = f
        #: Whether it gets the arguments of the call.
        self.pass_arguments = pass_arguments
        #: What the dict of each call begins with.
        self.base_dict = {"ud_spool_func": f.__name__}
        if fixed is not None:
            self.base_dict["ud_spool_ret"] = str(int(fixed))
        self._runs_forever = fixed is SPOOL_RETRY
        handler.install()
        #: The task, for what uwsgidecorators does not know.
        self.task: SpoolTask[..., Any] = SpoolTask(self._runner(), SpoolEngine(), TaskOptions(engine="spool"))
        functions[f.__name__] = f
        other_libraries.adopters[f.__name__] = self._adopt
        f.spool = self.__call__  # type: ignore[attr-defined]

    def __call__(self, *args: Any, **kwargs: Any) -> Job[Any]:
        """Enqueue a job.

        Args:
            args: At most one dict; with ``pass_arguments``, the positional arguments.
            kwargs: More of the dict; with ``pass_arguments``, the arguments by name. ``at``, ``priority`` and
                ``spooler`` are options, as in ``uwsgi.spool()``.

        Returns:
            The job, which is accepted by then.

        Raises:
            ArgumentError: The arguments do not fit, or are of a type that is not supported. As with each error, nothing
                was accepted.
            SpoolUnavailableError: The spool directory takes no job now.
        """
        if self.pass_arguments:
            for name in ("body", "message_dict"):
                if name in kwargs:
                    raise QueueOptionError(
                        f"{self.task.name}: with pass_arguments the function never sees {name}: give it another name",
                        argument=name,
                    )
            given: dict[str, object] = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
            return self.task.using(**_options(given))(*args, **kwargs)
        if len(args) > 1:
            raise SignatureError(f"{self.task.name} takes one dict, and arguments by name, not {len(args)} by position")
        if not all(isinstance(one, Mapping) for one in args):
            raise ArgumentTypeError(
                f"{self.task.name} was called with {shown(args[0])}: give a dict, or arguments by name, or declare the "
                "function with pass_arguments=True",
                type_name=type(args[0]).__qualname__,
            )
        texts = _texts({**self.base_dict, **dict(*args), **kwargs})
        return self.task.using(**_options(texts))(texts)

    spool = __call__

    def _runner(self) -> Callable[..., SpoolResult]:
        """The function of the task, which calls the one that was declared."""

        @functools.wraps(self.f)
        def run(*args: Any, **kwargs: Any) -> SpoolResult:
            if self.pass_arguments:
                variables: dict[str, Any] = dict(self.base_dict)
                returned = self.f(*args, **kwargs)
            else:
                variables = {"spooler_task_name": f"{spoolfile.PREFIX}{current_job().id}", **args[0]}
                returned = self.f(variables)
            if reason := callables.unfinished(returned):
                raise Abort(reason)
            answer = result_of(self.task.name, variables.get("ud_spool_ret", returned))
            if answer is SPOOL_RETRY and self._runs_forever:
                _run_again()
                return SPOOL_OK
            return answer

        return run

    def _adopt(self, env: bridge.Env) -> None:
        """Enqueue the job of a file that uwsgidecorators has written.

        The id follows from the name of the file: a kill before the file is removed makes no second job.

        Raises:
            DecodeError: Its arguments are pickled, or are not for this function.
        """
        if b"args" in env:
            raise DecodeError(
                f"uwsgidecorators has pickled the arguments of this job of {self.task.name}, and spoolkit unpickles "
                "nothing: call the function again, or let uWSGI run the job with the import of uwsgidecorators"
            )
        if self.pass_arguments:
            raise DecodeError(f"{self.task.name} is declared with pass_arguments, and this job has a dict")
        # What uWSGI itself adds has text as key.
        texts = _texts({key: value for key, value in env.items() if isinstance(key, bytes)})
        if body := env.get("body"):
            texts["body"] = _text("body", body)
        name = os.fsdecode(env["spooler_task_name"])
        written = _WRITTEN_AT.search(name)
        here, own = handler.this_process.spool_dir, locations.spool_dir(application.settings())
        job = JobSpec(
            id_after(name, "adopted", float(".".join(written.groups())) if written else 0.0),
            self.task.name,
            enqueued_at=clock.now(),
            queue=here if here and os.path.realpath(here) != os.path.realpath(own) else None,
            retries=_retries().get("retries"),
        )
        _write_once(job, codec.encode_call((texts,), {}), is_new=False)


def result_of(name: str, returned: object) -> SpoolResult:
    """Return what uWSGI makes of what a function has returned.

    Args:
        name: The function.
        returned: What it has returned, a number of uWSGI.

    Raises:
        Abort: It is none: the function has run to its end and has not said what follows.
    """
    try:
        number = int(returned)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise Abort(f"{name} ran to its end and returned {shown(returned)}, {other_libraries.ANSWERS}") from None
    try:
        return SpoolResult(number)
    except ValueError:
        log.warning("%s returned %d, which uWSGI treats as SPOOL_RETRY", name, number)
        return SPOOL_RETRY


def _text(name: str, value: object) -> str | bytes:
    """Return an argument as the function gets it: as text, or as bytes where these are not UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if not isinstance(value, str):
        raise ArgumentTypeError(
            f"argument {shown(name)} is {shown(value)}: give text or bytes, or declare the function with "
            "pass_arguments=True",
            argument=name,
            type_name=type(value).__qualname__,
        )
    return value


def _texts(arguments: Mapping[Any, object]) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {}
    for key, value in arguments.items():
        name = _text("", key) if isinstance(key, (str, bytes)) else key
        if not isinstance(name, str) or not name:
            raise ArgumentTypeError(
                f"{shown(key)} is no name of an argument: give text", type_name=type(key).__qualname__
            )
        found[name] = _text(name, value)
    return found


def _options(given: Mapping[str, object]) -> dict[str, Any]:
    """The options of a call, of those of ``uwsgi.spool()`` that are given. Raises :class:`ArgumentError`."""
    found: dict[str, Any] = _retries()
    if "at" in given:
        found["at"] = uwsgi_args.at(given["at"], now=clock.now())
    if "priority" in given:
        found["priority"] = uwsgi_args.priority(given["priority"])
    if "spooler" in given:
        found["queue"] = os.path.realpath(uwsgi_args.spool_dir(given["spooler"]))
    return found


def _retries() -> dict[str, Any]:
    retries = application.settings().compat_retries
    return {} if retries == TaskOptions.retries else {"retries": retries}


def _run_again() -> None:
    """Enqueue the next run of the job that is running, as uWSGI runs it again at its next scan.

    A job of its own: the runs are no attempts, of which there may be so many. Its id follows from that of this one, so
    that a run that is interrupted at its end, and repeated, is followed by one job.
    """
    job = current_job()
    if job.engine == "inline" or job.cancelled:
        return
    now = clock.now()
    following = JobSpec(
        id_after(job.id, "again", job.run_at),
        job.task,
        enqueued_at=now,
        run_at=now + _pause(),
        queue=job.queue,
        priority=job.priority,
        app=job.app,
        retries=job.retries,
    )
    _write_once(following, codec.encode_call(job.args, dict(job.kwargs)), is_new=job.attempt == 1)


def _pause() -> float:
    """Return the seconds between two scans of the spool directory."""
    for name in FREQUENCIES:
        if isinstance(given := bridge.options().get(name), bytes):
            return float(given)
    return standalone.FREQUENCY


def _write_once(job: JobSpec, call: bytes, *, is_new: bool) -> None:
    """Write a job whose id follows from something else, unless that was done before."""
    config = application.settings()
    if not is_new:
        try:
            if successors.exists(job, locations.store(config), config):
                return
        except StoreUnavailableError:
            pass  # one that is over already runs once more; otherwise this one would not go on for as long as that
    successors.write(job, call, config)
    successors.announce(job, config)
