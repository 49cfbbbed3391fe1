"""Named in uwsgi.ini (``import = spoolkit.guard``, ``spooler-import = spoolkit.guard``), it imports the application.

Where a new version does not import, a process that uWSGI has started for it ends again, and tries anew, instead of
serving without an application: the processes that run the old version go on, none of them is reloaded until the new one
imports, and the spoolers keep to the old one. At the very start uWSGI itself gives up (``need-app``).
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback

from spoolkit import bridge, draining

PAUSE = 1.0
"""Seconds before uWSGI starts another process in the place of one that could not import the application."""

OPTIONS = ("module", "wsgi", "wsgi-file", "file")


def application() -> str | None:
    """The module of the application, as uWSGI's options name it; ``None`` where it is no module by its name."""
    options = bridge.options()
    for name in OPTIONS:
        value = options.get(name)
        text = os.fsdecode(value) if isinstance(value, bytes) else value
        if isinstance(text, str):
            module = text.partition(":")[0]
            return None if "/" in module or module.endswith(".py") else module
    return None


def load() -> None:
    """Import the application, or end this process."""
    name = application()
    if name is None:
        return
    try:
        importlib.import_module(name)
    except BaseException:
        if bridge.is_worker() and not bridge.respawns():
            return  # uWSGI tries itself, and gives up
        traceback.print_exc()
        print(f"spoolkit: {name} cannot be imported; what runs the old version goes on", file=sys.stderr, flush=True)  # noqa: T201
        time.sleep(PAUSE)
        os._exit(1)
    if bridge.is_worker() and bridge.respawns():
        draining.recycle()  # before it serves: what the new version enqueues is not for the old one to run


if bridge.is_worker() or bridge.is_spooler():
    draining.install()  # before the application is there: a stop may come first
    load()
