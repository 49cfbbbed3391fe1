"""Which Flask application is in force here, and with which settings."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from flask import Flask, current_app, has_app_context

from spoolkit import callbacks
from spoolkit.callbacks import Callbacks
from spoolkit.settings import Settings
from spoolkit.system import modules
from spoolkit.uwsgi import bridge


class Applications:
    """The applications of one process."""

    def __init__(self) -> None:
        #: Those that are alive, by name, in the order in which they were made.
        self.alive: WeakValueDictionary[str, Flask] = WeakValueDictionary()
        #: The one that was made last; dead once nothing else refers to it.
        self.latest: ref[Flask] | None = None
        #: Under uWSGI, strong references: nothing else may refer to the application that a spooler loaded for its jobs.
        self.served: dict[str, Flask] = {}
        #: The folder of each, as :func:`folder` found it.
        self.folders: WeakKeyDictionary[Flask, str] = WeakKeyDictionary()
        #: What each has called for its jobs.
        self.callbacks: WeakKeyDictionary[Flask, Callbacks] = WeakKeyDictionary()


this_process = Applications()
"""The applications of this process."""

_chosen: ContextVar[Flask | None] = ContextVar("spoolkit.application", default=None)


def add(app: Flask, called: Callbacks = callbacks.NONE) -> None:
    """Make ``app`` the latest application of this process, which has ``called`` for its jobs."""
    this_process.callbacks[app] = called
    name = name_of(app)
    this_process.alive.pop(name, None)
    this_process.alive[name] = app
    this_process.latest = ref(app)
    if bridge.is_uwsgi():
        this_process.served[name] = app


def is_made() -> bool:
    """Whether an application was made in this process."""
    return this_process.latest is not None


def name_of(app: Flask) -> str:
    """The name by which another process finds the application: that of its module, however the module was loaded."""
    return modules.dotted_name(app.import_name)


def folder(app: Flask) -> str:
    """The folder that contains the application's module, or its top package."""
    known_folder = this_process.folders.get(app)
    if known_folder is None:
        found = modules.folder(app.import_name)
        is_above = found is not None and os.path.commonpath([found, app.root_path]) == found
        # Otherwise root_path was given to Flask() by hand.
        known_folder = this_process.folders[app] = found if found is not None and is_above else app.root_path
    return known_folder


def current() -> Flask | None:
    """The application in force: that of the active context, else the latest one that is alive, else ``None``."""
    if has_app_context():
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        if "spoolkit" in app.extensions:
            return app
    return _chosen.get() or (None if this_process.latest is None else this_process.latest())


def current_name() -> str | None:
    """The name of the application in force; ``None`` where this process has only one or none."""
    if len(this_process.alive) < 2 or (app := current()) is None:
        return None
    return name_of(app)


def all_callbacks() -> list[tuple[Flask, Callbacks]]:
    """All applications of this process in the order in which they were made, with what each has called for its jobs."""
    return [(app, this_process.callbacks.get(app, callbacks.NONE)) for app in list(this_process.alive.values())]


def own_callbacks() -> Callbacks:
    """What the application in force has called for its jobs."""
    if not callbacks.this_process.has_any or (app := current()) is None:
        return callbacks.NONE
    return this_process.callbacks.get(app, callbacks.NONE)


def context(name: str | None = None) -> AbstractContextManager[object]:
    """A new application context of the application ``name``, by default of the one in force.

    Where there is no application, a context manager that does nothing.
    """
    app = (this_process.alive.get(name) if name else None) or current()
    return nullcontext() if app is None else app.app_context()


def choose(app: Flask | None) -> None:
    """Put ``app`` in force for the current :mod:`contextvars` context, wherever no application context is active."""
    _chosen.set(app)


def settings(code_folder: str | None = None) -> Settings:
    """The settings in force: those of the application in force, else those of the environment.

    Args:
        code_folder: Where there is no application, the folder that a relative spool directory refers to; by default
            the current directory. A caller passes the folder of its tasks: the current directory of a cron script is
            seldom that of the site.

    Raises:
        ConfigurationError: A setting has a value that cannot be used.
    """
    app = current()
    return Settings.load({}, code_folder or os.getcwd()) if app is None else settings_of(app)


def settings_of(app: Flask) -> Settings:
    """The settings of ``app``, with its configuration as it is now.

    Raises:
        ConfigurationError: A setting has a value that cannot be used.
    """
    return Settings.load(app.config, folder(app))
