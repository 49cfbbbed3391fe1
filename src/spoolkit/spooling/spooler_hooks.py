"""What does an application do in each process that runs jobs, before the first job and at the end?"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from flask import Flask

from spoolkit import application, callables, callbacks
from spoolkit.attempt import timeouts
from spoolkit.errors import shown
from spoolkit.lifecycle import spooler_signals
from spoolkit.spooldir import spoolers
from spoolkit.system import clock, log, watch
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import bridge

PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds after which a hook that has failed is tried again, before a job runs: at first, and after many failures."""

SHORTEST_STOP = 1.0
"""Seconds that the hooks of the end may take where the grace period is shorter: no stop may be waiting for them."""


class _State:
    """What this process knows of its hooks."""

    def __init__(self) -> None:
        #: The hooks that have run at its start.
        self.done: list[Callable[[], object]] = []
        #: When the next one may be tried, on the monotonic clock.
        self.next_try = 0.0
        #: How often one has failed, and the hook and the type of the error of the last time.
        self.failures = 0
        self.last_failure: tuple[object, type[BaseException]] | None = None
        #: Whether all have run, and those of the end have not.
        self.has_started = False


_state = PerProcess(_State)


def start(working_directory: str, spool_dir: str, at_exit: Callable[[], None]) -> bool:
    """Run the hooks of the start that have not run in this process.

    A hook that fails is logged and tried again: until then no job runs here, because jobs would only fail for want of
    what the hook prepares, and use up their attempts.

    Args:
        working_directory: Where they run.
        spool_dir: The spool directory of this spooler.
        at_exit: Called if a signal asks this process to exit while it is idle.

    Returns:
        Whether jobs may run.
    """
    state = _state.get()
    if state.has_started:
        return True
    if time.monotonic() < state.next_try:
        return False
    for app, hook in _hooks(lambda called: called.spooler_start):
        if hook not in state.done:
            try:
                with (
                    _in(working_directory),
                    app.app_context(),
                    watch.watching(f"{callables.name(hook)}, a hook of the start of spoolers,"),
                ):
                    hook()
            except (Exception, SystemExit) as error:  # of the application's own code, anything
                _failed(state, hook, error, spool_dir)
                return False
            state.done.append(hook)
    state.has_started = True
    if state.failures:
        spoolers.clear_start_error(spool_dir)
    if bridge.is_spooler() and bridge.has_threads() and has_stop():
        spooler_signals.run_at_exit(at_exit)
    return True


def _failed(state: _State, hook: Callable[[], object], error: BaseException, spool_dir: str) -> None:
    """Log that a hook has failed, with its traceback the first time, and have it tried again, later each time."""
    pause = min(PAUSE * 2.0**state.failures, LONGEST_PAUSE)
    is_new = state.last_failure != (hook, type(error))
    problem = f"the hook {callables.name(hook)} of its start fails: {shown(error, 300)}"
    text = "spooler %d runs no job yet: %s; next try in %g s"
    log.error(text, os.getpid(), problem, pause, error=error if is_new else None)
    spoolers.publish_start_error(spool_dir, problem, clock.now() + pause)
    state.failures = min(state.failures + 1, 30)
    state.last_failure = hook, type(error)
    state.next_try = time.monotonic() + pause


def has_stop() -> bool:
    """Return whether there is anything to do at the end of a spooler."""
    return bool(_hooks(lambda called: called.spooler_stop))


def stop(working_directory: str) -> None:
    """Run the hooks of the end, the last one first, if those of the start have run in this process. Never raises.

    If they take longer than the grace period, this process ends: it could neither run a job nor be replaced.
    """
    state = _state.peek()
    if state is None or not state.has_started:
        return
    state.has_started = False
    if not (hooks := _hooks(lambda called: called.spooler_stop)):
        return
    grace = max(SHORTEST_STOP, application.settings().grace)
    with timeouts.hard(grace, -1):
        for app, hook in reversed(hooks):
            what = f"{callables.name(hook)}, a hook of the end of spoolers,"
            try:
                with _in(working_directory), app.app_context(), watch.watching(what, min(watch.LIMIT, grace / 2)):
                    hook()
            except BaseException as error:
                log.error("spooler %d ends although a hook of its end failed", os.getpid(), error=error)


def _hooks(
    of: Callable[[callbacks.Callbacks], list[Callable[[], object]]],
) -> list[tuple[Flask, Callable[[], object]]]:
    """The hooks of all applications of this process, each with its application; once, also if it is that of several."""
    found: list[tuple[Flask, Callable[[], object]]] = []
    for app, called in application.all_callbacks():
        found += [(app, hook) for hook in of(called) if all(hook is not other for _, other in found)]
    return found


@contextlib.contextmanager
def _in(directory: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
