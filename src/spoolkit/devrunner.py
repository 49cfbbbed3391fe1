"""Under ``flask run``: a process beside the development server runs the jobs, once, with the reloader or without."""

from __future__ import annotations

import subprocess
import sys

import click
from flask.cli import ScriptInfo

from spoolkit import lifetime

_child: subprocess.Popen[bytes] | None = None


def start_beside_flask_run() -> None:
    """Start ``flask spool run`` if this process is the one that serves under ``flask run``; else do nothing."""
    global _child
    context = click.get_current_context(silent=True)
    if _child is not None or context is None or not lifetime.serves(context):
        return
    # Its standard input is a pipe that closes with this process, however it ends: the sign to stop.
    command = [*_flask(context), "spool", "run", "--until-eof"]
    _child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - the command line that runs already


def _flask(context: click.Context) -> list[str]:
    info = context.find_object(ScriptInfo)
    if info is not None and info.create_app is not None:
        return [sys.executable, sys.argv[0]]  # a command line of the application's own
    found = [] if info is None or info.app_import_path is None else ["--app", info.app_import_path]
    return [sys.executable, "-m", "flask", *found]
