"""The Flask extension: the application in whose context tasks run, its settings, its commands."""

from __future__ import annotations

import contextlib
import os
from weakref import ref

from flask import Flask, current_app, has_app_context

from spoolkit import bridge, devrunner, runner, settings
from spoolkit.cli import commands
from spoolkit.settings import Settings


class SpoolKit:
    """spoolkit for a Flask application: ``SpoolKit(app)``, or ``init_app`` from a factory."""

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Run tasks in the context of ``app``, with its ``SPOOLKIT_*`` settings, and add ``flask spool``.

        Where several applications live in one process, jobs run in the one that came last. Outside uWSGI this makes
        the spool directory where it is missing. Raises :class:`ConfigurationError` for a setting that cannot be used.
        """
        config = settings_of(app)
        app.extensions["spoolkit"] = self
        app.cli.add_command(commands)
        runner.use_application(app.app_context)
        latest = ref(app)

        def in_force() -> Settings | None:
            if has_app_context() and "spoolkit" in current_app.extensions:
                return settings_of(current_app._get_current_object())  # type: ignore[attr-defined]
            known = latest()
            return None if known is None else settings_of(known)

        settings.use(in_force)
        served = bridge.directories()
        if served and config.spool not in served:
            runner.log.warning(
                "uWSGI serves %s, but SPOOLKIT_SPOOL is %s: jobs from outside uWSGI would lie there unseen",
                ", ".join(served),
                config.spool,
            )
        if not bridge.is_uwsgi():
            # Where it cannot be made, the site still starts: whoever enqueues is told.
            with contextlib.suppress(OSError):
                os.makedirs(config.spool, mode=0o700, exist_ok=True)
            if config.dev_runner:
                devrunner.start_beside_flask_run()


def settings_of(app: Flask) -> Settings:
    """The settings of ``app`` as they stand now. Raises :class:`ConfigurationError`."""
    return Settings.load(app.config, app.root_path)
