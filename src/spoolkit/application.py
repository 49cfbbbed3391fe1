"""The Flask applications of this process, and which of them is in force."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from weakref import WeakValueDictionary, ref

from flask import Flask, current_app, has_app_context

from spoolkit.system import modules
from spoolkit.uwsgi import bridge

_made: WeakValueDictionary[str, Flask] = WeakValueDictionary()
"""The applications that live in this process, by name, in the order in which they were made."""

_latest: ref[Flask] | None = None

_served: dict[str, Flask] = {}
"""Under uWSGI they are kept: nobody else may hold what a spooler has loaded for its jobs."""

_chosen: ContextVar[Flask | None] = ContextVar("spoolkit.application", default=None)


def add(app: Flask) -> None:
    """``app`` is the application that was made last in this process."""
    global _latest
    name = name_of(app)
    _made.pop(name, None)
    _made[name] = app
    _latest = ref(app)
    if bridge.is_uwsgi():
        _served[name] = app


def is_made() -> bool:
    """Whether an application was made in this process."""
    return _latest is not None


def name_of(app: Flask) -> str:
    """By which an application is found again in another process: the name of its module, however that was loaded."""
    return modules.dotted_name(app.import_name)


def folder(app: Flask) -> str:
    """The folder in which the application's module, or the package at its top, lies."""
    found = modules.folder(app.import_name)
    if found is not None and os.path.commonpath([found, app.root_path]) == found:
        return found
    return app.root_path  # given by hand


def current() -> Flask | None:
    """The application in whose context the caller is, else the one that was made last and still lives."""
    if has_app_context() and "spoolkit" in current_app.extensions:
        return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]
    return _chosen.get() or (None if _latest is None else _latest())


def current_name() -> str | None:
    """The name of the current application, where several live in this process; ``None`` where there is no choice."""
    if len(_made) < 2 or (app := current()) is None:
        return None
    return name_of(app)


def context(name: str | None = None) -> AbstractContextManager[object]:
    """A fresh context of the application ``name``, else of the current one; without an application, no context."""
    app = (_made.get(name) if name else None) or current()
    return nullcontext() if app is None else app.app_context()


def choose(app: Flask | None) -> None:
    """Make ``app`` the current application in this context (:mod:`contextvars`), outside of an application context."""
    _chosen.set(app)
