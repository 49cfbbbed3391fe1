"""Under ``flask run``: which process serves, how does it exit, and which process runs the jobs beside it?"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

import click
from flask.cli import ScriptInfo
from flask.helpers import get_debug_flag

from spoolkit import application
from spoolkit.spooldir import spoolers
from spoolkit.store import locations
from spoolkit.system import clock, process

LAST_WAIT = 5.0
"""Seconds for which the exit still waits for the spooler once the user has asked for it a second time."""

_spooler: _SpoolerProcess | None = None


def is_serving(context: click.Context) -> bool:
    """Whether this process is the one that serves under ``flask run``.

    Args:
        context: The command that this process executes.
    """
    # With the reloader the application is loaded twice: in the watching process, and in the one that serves.
    return context.info_name == "run" and (not _has_reloader(context) or os.environ.get("WERKZEUG_RUN_MAIN") == "true")


def _has_reloader(context: click.Context) -> bool:
    reload = context.params.get("reload")
    return get_debug_flag() if reload is None else bool(reload)


def install_signal_handlers() -> None:
    """Under ``flask run``, let SIGTERM end the server gracefully, and let Ctrl-C wait for the reloader's child.

    Does nothing for other commands, outside the main thread, and where the application has its own handlers.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "run" or threading.current_thread() is not threading.main_thread():
        return
    if not _has_reloader(context):
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    elif not is_serving(context) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C reaches both processes. The watching process would kill the serving one a quarter of a second later.
        signal.signal(signal.SIGINT, _wait_for_child)


def _wait_for_child(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait
    # A terminal has signalled the child as well, which is exiting by now. A signal to this pid alone has not reached
    # it: pass it on.
    time.sleep(0.3)
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as children:
        for pid in children.read().split():
            os.kill(int(pid), signum)


def start_spooler() -> None:
    """Start ``flask spool run`` if this process is the one that serves under ``flask run``; else do nothing."""
    global _spooler
    context = click.get_current_context(silent=True)
    if _spooler is None and context is not None and is_serving(context):
        _spooler = _SpoolerProcess([*_command_line(context), "spool", "run", "--until-eof"])


class _SpoolerProcess:
    """The process that runs the jobs. The exit of this process waits for the job that runs there."""

    def __init__(self, command: Sequence[str]) -> None:
        # Its standard input is a pipe, which closes when this process ends in any way: that tells the spooler to stop.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - the command line that runs already
        self._is_reloaded = os.environ.get("WERKZEUG_RUN_MAIN") == "true"
        self._was_asked_to_stop = False
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._on_interrupt)
            atexit.register(self._wait)

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        # At once: a terminal has signalled the spooler as well, which would take a later signal for a second Ctrl-C.
        self._ask_to_stop()
        signal.default_int_handler(signum, frame)

    def _ask_to_stop(self) -> None:
        self._was_asked_to_stop = True
        # Not SIGINT: a spooler that is still starting would print a traceback.
        self._process.send_signal(signal.SIGTERM)

    def _wait(self) -> None:
        if not self._was_asked_to_stop and self._is_reloaded:
            return  # the code has changed: this spooler finishes its job beside the spooler of the new code
        if not self._was_asked_to_stop:
            self._ask_to_stop()
        began = time.monotonic()
        deadline = began + application.settings().grace + LAST_WAIT
        while time.monotonic() < deadline:
            try:
                process.wait_until_gone(self._remaining, deadline)
                return
            except (KeyboardInterrupt, SystemExit) as error:
                if isinstance(error, SystemExit):
                    self._ask_to_stop()
                if time.monotonic() - began > clock.SAME_SIGNAL:
                    deadline = min(deadline, time.monotonic() + LAST_WAIT)

    def _remaining(self) -> list[int]:
        """The spooler if it lives, else the spoolers of older code that still run a job for this terminal."""
        if self._process.poll() is None:
            return [self._process.pid]
        return [pid for pid in spoolers.busy(locations.spool_dirs()) if _session(pid) == os.getsid(0)]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _command_line(context: click.Context) -> list[str]:
    """The arguments that start the same program with the same options, up to the command."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if program := _program(None if spec is None else spec.name, sys.argv[0]):
        words = sys.argv[1:]
        for at in reversed(range(len(words))):  # the last one: `flask --app run run`
            if words[at] == context.info_name:
                return [sys.executable, *program, *words[:at]]
    # Another program has called the command as a function.
    info = context.find_object(ScriptInfo)
    found = [] if info is None or info.app_import_path is None else ["--app", info.app_import_path]
    return [sys.executable, "-m", "flask", *found]


def _program(module: str | None, path: str) -> list[str]:
    """The arguments of Python that run this program; empty if they are not known."""
    if module is not None and module != "__main__":  # a folder or a zip file is run as __main__
        return ["-m", module.removesuffix(".__main__")]
    return [path] if os.path.exists(path) else []
