"""The Flask extension: the application in whose context tasks run, its settings, its commands."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from flask import Flask

from spoolkit import application, task
from spoolkit.cli import commands
from spoolkit.errors import ConfigurationError
from spoolkit.lifecycle import flask_run, hooks
from spoolkit.spooling import engine
from spoolkit.system import log
from spoolkit.task import Task
from spoolkit.threads.background import BackgroundThread, BackgroundThreads, Where
from spoolkit.uwsgi import bridge, served


class SpoolKit:
    """spoolkit for a Flask application: ``SpoolKit(app)``, or ``init_app`` from a factory.

    The tasks that are declared in this process are its attributes by their functions' names: with ``background_tasks =
    SpoolKit()``, ``background_tasks.record_visit(5)`` calls the task ``record_visit``, in whichever module it is. In a
    view it is ``current_app.extensions["spoolkit"]``.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._threads = BackgroundThreads()
        self._apps: WeakSet[Flask] = WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Run tasks in the context of ``app``, with its ``SPOOLKIT_*`` settings, and add ``flask spool``.

        Where several applications live in one process, a job runs in the one that was current at its call, else in the
        one that was made last. Raises
        :class:`ConfigurationError` for a setting that cannot be used, and where uWSGI has spoolers and gives each
        application an interpreter of its own.
        """
        config = application.settings_of(app)
        self._apps.add(app)
        app.extensions["spoolkit"] = self
        app.cli.add_command(commands)
        if bridge.directories() and served.has_separate_interpreters(served.options()):
            raise ConfigurationError(served.SEPARATE, setting="single-interpreter")
        application.add(app)
        directories = bridge.directories()
        if directories and config.spool not in directories:
            log.warning(
                "uWSGI serves %s, but SPOOLKIT_SPOOL is %s: jobs from outside uWSGI would lie there unseen",
                ", ".join(directories),
                config.spool,
            )
        flask_run.install_signal_handlers()
        if self._threads:
            hooks.at_start(app, self._threads.start)
        if not bridge.is_uwsgi():
            engine.may_make(config.spool)  # decided now: nothing is made before there is a job
        if not bridge.is_uwsgi() and config.dev_runner:
            flask_run.start_spooler()

    def add_thread(self, thread: BackgroundThread, where: Where = "each process") -> None:
        """Have ``thread`` live in each process that serves, or, with ``where="one process"``, in one of them.

        It is started after the fork, under a reloader in the process that serves only, and under a server that is not
        known here with the first request; not by a command line, a script, or a test (see :meth:`start_threads`). When
        its process is asked to go it gets ``SPOOLKIT_THREAD_GRACE`` seconds. If the one process goes away, another one
        takes over. Raises :class:`ConfigurationError` for what cannot be.

        The thread may start before this returns: add it once the application is complete.
        """
        first = not self._threads
        self._threads.add(thread, where)
        if first:
            for app in list(self._apps):
                hooks.at_start(app, self._threads.start)

    def start_threads(self) -> None:
        """Start in this process what :meth:`add_thread` was given: for tests, and for programs without a server."""
        self._threads.start()

    def drain(self, grace: float | None = None) -> None:
        """End what this process does in the background, as its server does; see :mod:`spoolkit.lifecycle.hooks`."""
        hooks.run_end_hooks(grace)

    def __getattr__(self, name: str) -> Task[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return task.by_name(name)
