"""Under ``flask run``: a process beside the development server runs the jobs, once, with the reloader or without."""

from __future__ import annotations

import os
import subprocess
import sys

import click
from flask.cli import ScriptInfo
from flask.helpers import get_debug_flag

_child: subprocess.Popen[bytes] | None = None


def start_beside_flask_run() -> None:
    """Start ``flask spool run`` if this process is the one that serves under ``flask run``; else do nothing."""
    global _child
    context = click.get_current_context(silent=True)
    if _child is not None or context is None or context.info_name != "run" or not _serves(context):
        return
    # Its standard input is a pipe that closes with this process, however it ends: the sign to stop.
    command = [*_flask(context), "spool", "run", "--until-eof"]
    _child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - the command line that runs already


def _serves(context: click.Context) -> bool:
    reload = context.params.get("reload")
    reloader = get_debug_flag() if reload is None else reload
    # With the reloader the application is loaded twice: in the watching process, and in the one that serves.
    return not reloader or os.environ.get("WERKZEUG_RUN_MAIN") == "true"


def _flask(context: click.Context) -> list[str]:
    info = context.find_object(ScriptInfo)
    if info is not None and info.create_app is not None:
        return [sys.executable, sys.argv[0]]  # a command line of the application's own
    found = [] if info is None or info.app_import_path is None else ["--app", info.app_import_path]
    return [sys.executable, "-m", "flask", *found]
