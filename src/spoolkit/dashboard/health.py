"""``GET /health/live`` and ``GET /health/ready``: is the process alive, and is the site ready for jobs?

Whoever asks gets an answer: a load balancer has no password. The reasons are for those who may see the dashboard.
"""

from __future__ import annotations

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from spoolkit.admin import health
from spoolkit.dashboard.access import Access, AccessFunction, given_or_default
from spoolkit.dashboard.routes import Routes

routes = Routes()


@routes.open("/health/live")
def live(access: Access | None) -> ResponseReturnValue:
    """This process answers. Nothing else is looked at: a restart of it would not help."""
    return jsonify(live=True), 200, {"Cache-Control": "no-store"}


@routes.open("/health/ready")
def ready(access: Access | None) -> ResponseReturnValue:
    """Whether jobs that are enqueued now will run; 503 if not, or if that cannot be seen."""
    reasons = health.recent_reasons()
    answer: dict[str, object] = {"ready": not reasons}
    if access is not None and access.may("view"):
        answer["reasons"] = [reason._asdict() for reason in reasons]
    return jsonify(answer), 503 if reasons else 200, {"Cache-Control": "no-store"}


def health_blueprint(access: AccessFunction | None = None) -> Blueprint:
    """Make a blueprint with ``/health/live`` and ``/health/ready`` alone, which answer everybody.

    Args:
        access: Who sees the reasons as well: as for :func:`~spoolkit.dashboard.dashboard_blueprint`.

    Returns:
        The blueprint, which can be registered under any prefix.

    Raises:
        ConfigurationError: ``access`` is no function.
    """
    blueprint = Blueprint("spoolkit_health", __name__)
    routes.add_to(blueprint, given_or_default(access))
    return blueprint
