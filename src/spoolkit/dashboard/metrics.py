"""``GET /metrics``: the figures for Prometheus. Access is that of the page, with the right to view."""

from __future__ import annotations

from types import ModuleType

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from spoolkit.dashboard import headers
from spoolkit.dashboard.access import Access, AccessFunction, given_or_default
from spoolkit.dashboard.routes import Routes
from spoolkit.errors import ConfigurationError, ForbiddenError, SpoolkitError
from spoolkit.system import log

routes = Routes()

MISSING = "the figures need prometheus-client: pip install 'spoolkit[metrics]'"


@routes.file("/metrics")
def metrics(access: Access) -> ResponseReturnValue:
    """The figures of now. While they cannot be read the answer is 503, and the scrape has failed: no figure is 0."""
    try:
        access.require("view")
        text = _text()
        return Response(text.render(), content_type=text.CONTENT_TYPE)
    except SpoolkitError as error:
        status = 403 if isinstance(error, ForbiddenError) else 503
        return Response(f"{log.one_line(str(error))}\n", status, mimetype="text/plain")


def metrics_blueprint(access: AccessFunction | None = None) -> Blueprint:
    """Make a blueprint with ``/metrics`` alone: ``app.register_blueprint(metrics_blueprint(access=...))``.

    Args:
        access: As for :func:`~spoolkit.dashboard.dashboard_blueprint`; a user without the right to view gets a 403.

    Returns:
        The blueprint, which can be registered under any prefix.

    Raises:
        ConfigurationError: ``access`` is no function, or prometheus-client is not installed.
    """
    _text()
    blueprint = Blueprint("spoolkit_metrics", __name__)
    routes.add_to(blueprint, given_or_default(access))
    blueprint.after_request(headers.add)
    return blueprint


def _text() -> ModuleType:
    try:
        from spoolkit.metrics import text
    except ImportError as error:
        raise ConfigurationError(MISSING) from error
    return text
