"""What do mules of uWSGI become without it? A process of ``flask spool run`` each; calls to them become jobs."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from spoolkit import application, callables
from spoolkit.compat.processes import FOLDER
from spoolkit.coordination import limits
from spoolkit.errors import ConfigurationError
from spoolkit.handle import Job
from spoolkit.job import Limit, TaskOptions
from spoolkit.lifecycle import hooks, sweeping
from spoolkit.spooling import handler, supervisor
from spoolkit.spooling.engine import SpoolEngine
from spoolkit.spooling.standalone import GUARDED
from spoolkit.store import locations
from spoolkit.system import polling, task_signals
from spoolkit.task import SpoolTask
from spoolkit.threads.filelock import exclusive_lock

F = TypeVar("F", bound=Callable[..., Any])

LOOK = 3600.0
"""Seconds after which a process that only waits for its end looks again."""


class Mule:
    """A process that runs functions of the site, one after the other, and then waits for its end.

    Of all ``flask spool run`` of the site, one at a time runs the mule with this number.

    Args:
        number: Its number, from 1.
    """

    def __init__(self, number: int) -> None:
        #: Its number.
        self.number = number
        #: Its functions, in the order of their declarations.
        self.brains: list[Callable[[], object]] = []

    def run(self, spool_dir: str, leash: int) -> None:
        """Be this mule until no process holds the write end of the pipe ``leash`` any more: then end at once.

        A function that raises ends the process, and another one takes its place.
        """
        task_signals.ignore_harmless()
        for signum in task_signals.STOP_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, lambda signum, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, GUARDED)
        threading.Thread(target=_end_with, args=(leash,), name="spoolkit-leash", daemon=True).start()
        folder = os.path.join(locations.spool_dir(application.settings()), FOLDER)
        with exclusive_lock(os.path.join(folder, f"mule-{self.number}"), _sleep):
            hooks.run_start_hooks()
            for brain in self.brains:
                brain()
            while not polling.readable([leash], LOOK):
                pass


def _end_with(leash: int) -> None:
    task_signals.block_in_thread()
    while not polling.readable([leash], LOOK):
        pass
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


_mules: dict[int, Mule] = {}


def mule(num: int) -> Callable[[F], F]:
    """Have a function called once in the mule with this number, when that starts.

    Raises:
        ConfigurationError: ``num`` is no number of a mule.
    """
    return functools.partial(_add, num, is_loop=False)


def muleloop(num: int) -> Callable[[F], F]:
    """Have a function called again and again in the mule with this number.

    Raises:
        ConfigurationError: ``num`` is no number of a mule.
    """
    return functools.partial(_add, num, is_loop=True)


def _add(number: int, f: F, *, is_loop: bool) -> F:
    if type(number) is not int or number < 1:
        raise ConfigurationError(f"the number of a mule is {number!r:.80}: give 1 or more", setting="num")
    if number not in _mules:
        _mules[number] = Mule(number)
        supervisor.once.append(_mules[number].run)
    _mules[number].brains.append(functools.partial(_again_and_again, f) if is_loop else f)
    return f


def _again_and_again(f: Callable[[], object]) -> None:
    while True:
        f()


# Calls

functions: dict[str, Callable[..., Any]] = {}
"""The functions that are declared with :func:`mulefunc`, by their names."""


def mulefunc(f: Callable[..., Any] | int) -> Callable[..., Any]:
    """Have each call of a function run in another process, one at a time: it is a job.

    Args:
        f: The function; or the number of a mule, which has no effect: any process that runs jobs calls it.

    Returns:
        What enqueues a job when it is called, or a decorator.

    Raises:
        TaskFunctionError: ``f`` cannot be a task.
    """
    return _declare(f) if callable(f) else _declare


def _declare(f: Callable[..., Any]) -> Callable[..., Job[Any]]:
    callables.check(f)
    if lazy := callables.kind_of_lazy(f):
        raise callables.refusal(f, f"it is {lazy}, which a mule would not run")
    handler.install()
    sweeping.add(limits.sweep)

    @functools.wraps(f)
    def run(*args: Any, **kwargs: Any) -> None:
        f(*args, **kwargs)

    # A mule does not repeat a message that fails, and takes one after the other.
    task: SpoolTask[..., Any] = SpoolTask(run, SpoolEngine(), TaskOptions(retries=0, limit=Limit(1), engine="spool"))
    functions[f.__name__] = f

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Job[Any]:
        return task(*args, **kwargs)

    return call
