"""The blueprint of the page: ``app.register_blueprint(dashboard_blueprint(access=...), url_prefix="/spool")``."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from spoolkit.dashboard import (
    actions,
    assets,
    dead,
    doctor,
    edit,
    headers,
    health,
    job,
    jobs,
    metrics,
    overview,
    periodic,
    queues,
    tasks,
)
from spoolkit.dashboard.access import Access, AccessFunction, given_or_default
from spoolkit.dashboard.routes import Routes, show_error
from spoolkit.errors import SpoolkitError

files = Routes()

PAGES: tuple[Routes, ...] = (
    files,
    overview.routes,
    jobs.routes,
    job.routes,
    edit.routes,
    dead.routes,
    actions.routes,
    periodic.routes,
    queues.routes,
    tasks.routes,
    doctor.routes,
    metrics.routes,
    health.routes,
)
"""The routes of all pages."""


@files.file("/static/<digest>/<path:name>")
def asset(access: Access, digest: str, name: str) -> ResponseReturnValue:
    """A style sheet or a script."""
    return assets.serve(digest, name)


def dashboard_blueprint(access: AccessFunction | None = None) -> Blueprint:
    """Make the blueprint of the page, to be registered under any prefix, also under several ones with other names.

    Args:
        access: Called with each request: returns who sends it and what they may do (:class:`Access`), ``None`` (the
            page is a 404 for them), or the response that they get, such as a redirect to a login. See
            :func:`basic_auth`. ``None``: the page is open in debug mode only, to a browser on the same machine.

    Returns:
        The blueprint.

    Raises:
        ConfigurationError: ``access`` is no function.
    """
    find_access = given_or_default(access)
    blueprint = Blueprint("spoolkit", __name__, template_folder="templates")
    for routes in PAGES:
        routes.add_to(blueprint, find_access)
    blueprint.register_error_handler(SpoolkitError, show_error)
    blueprint.after_request(headers.add)
    return blueprint
