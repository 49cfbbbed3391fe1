"""Named in uwsgi.ini (``import = spoolkit.guard``, ``spooler-import = spoolkit.guard``), it imports the application.

Where a new version does not import, a process that uWSGI has started for it ends again, and tries anew, instead of
serving without an application: the processes that run the old version go on, none of them is reloaded until the new one
imports, and the spoolers keep to the old one. At the very start uWSGI itself gives up (``need-app``).
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from spoolkit import bridge, draining, instance, shift

PAUSE = 1.0
"""Seconds before uWSGI starts another process in the place of one that could not import the application."""


def application() -> str | None:
    """The module of the application, as ``module =`` (or ``wsgi =``) in uwsgi.ini names it."""
    options = bridge.options()
    for name in instance.MODULES:
        value = options.get(name)
        if isinstance(value, bytes):
            return os.fsdecode(value).partition(":")[0]
    return None


def load() -> None:
    """Import the application, or end this process."""
    name = application()
    if name is None:
        print("spoolkit.guard: uwsgi.ini names no application (module = app:app); nothing is imported", file=sys.stderr)  # noqa: T201
        return
    try:
        importlib.import_module(name)
    except BaseException:
        if bridge.is_worker() and not bridge.respawns():
            return  # uWSGI tries itself, and gives up
        traceback.print_exc()
        print(f"spoolkit: {name} cannot be imported; what runs the old version goes on", file=sys.stderr, flush=True)  # noqa: T201
        draining.linger(PAUSE)
        os._exit(1)
    if bridge.is_worker() and bridge.respawns():
        draining.recycle()  # before it serves: what the new version enqueues is not for the old one to run


if bridge.is_worker() or bridge.is_spooler():
    draining.install()  # before the application is there: a stop may come first
    if bridge.is_spooler():
        shift.idle()  # until then SIGQUIT has the master's handler here, which kills the other spoolers
    load()
