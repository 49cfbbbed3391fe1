"""Under ``flask run``: a process beside the development server runs the jobs, once, with the reloader or without."""

from __future__ import annotations

import atexit
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

from spoolkit import application
from spoolkit.lifecycle import hooks, shutdown

AT_ONCE = 5.0
"""Seconds for which the end still waits for the runner once the user has asked for it a second time."""

_runner: _Runner | None = None


def start_beside_flask_run() -> None:
    """Start ``flask spool run`` if this process is the one that serves under ``flask run``; else do nothing."""
    global _runner
    context = click.get_current_context(silent=True)
    if _runner is None and context is not None and hooks.serves(context):
        _runner = _Runner([*_command_line(context), "spool", "run", "--until-eof"])


class _Runner:
    """The process beside this one. The end of this one waits for the jobs that run there."""

    def __init__(self, command: Sequence[str]) -> None:
        # Its standard input is a pipe that closes with this process, however it ends: the sign to stop.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - the command line that runs already
        self._is_reloaded = os.environ.get("WERKZEUG_RUN_MAIN") == "true"
        self._asked = False
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._on_interrupt)
            atexit.register(self._end)

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        # At once: later it would be taken for a second one, where a terminal has signalled the runner as well.
        self._ask()
        signal.default_int_handler(signum, frame)

    def _ask(self) -> None:
        self._asked = True
        # Not SIGINT: a runner that still starts would print a traceback.
        self._process.send_signal(signal.SIGTERM)

    def _end(self) -> None:
        if not self._asked and self._is_reloaded:
            return  # changed code, say: the runner finishes its job beside the one of the new code
        if not self._asked:
            self._ask()
        began = time.monotonic()
        deadline = began + application.settings().grace + AT_ONCE
        while time.monotonic() < deadline:
            try:
                shutdown.wait(self._still, deadline)
                return
            except (KeyboardInterrupt, SystemExit) as error:
                if isinstance(error, SystemExit):
                    self._ask()
                if time.monotonic() - began > hooks.SAME_SIGNAL:
                    deadline = min(deadline, time.monotonic() + AT_ONCE)

    def _still(self) -> list[int]:
        """The runner, and what runners of older code still run for this terminal."""
        if self._process.poll() is None:
            return [self._process.pid]
        return [pid for pid in shutdown.busy([application.settings().spool]) if _session(pid) == os.getsid(0)]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _command_line(context: click.Context) -> list[str]:
    """The words by which this command line was started, up to the command: the same program, with the same options."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if program := _program(None if spec is None else spec.name, sys.argv[0]):
        words = sys.argv[1:]
        for at in reversed(range(len(words))):  # the last one: `flask --app run run`
            if words[at] == context.info_name:
                return [sys.executable, *program, *words[:at]]
    # Called from within another program.
    info = context.find_object(ScriptInfo)
    found = [] if info is None or info.app_import_path is None else ["--app", info.app_import_path]
    return [sys.executable, "-m", "flask", *found]


def _program(module: str | None, path: str) -> list[str]:
    """How Python was told what to run; nothing where it cannot be told so again."""
    if module is not None and module != "__main__":  # the latter is what a folder or a zip file is run as
        return ["-m", module.removesuffix(".__main__")]
    return [path] if os.path.exists(path) else []
