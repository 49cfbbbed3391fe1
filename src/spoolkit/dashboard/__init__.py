"""The page: what people see of jobs in a browser, and do to them. ``app.register_blueprint(dashboard_blueprint())``.

How to add a page is said in :mod:`spoolkit.dashboard.routes`.
"""

from __future__ import annotations

from spoolkit.dashboard.access import ALL_RIGHTS, READ_ONLY, Access, basic_auth
from spoolkit.dashboard.blueprint import dashboard_blueprint
from spoolkit.dashboard.health import health_blueprint
from spoolkit.dashboard.metrics import metrics_blueprint

__all__ = [
    "ALL_RIGHTS",
    "READ_ONLY",
    "Access",
    "basic_auth",
    "dashboard_blueprint",
    "health_blueprint",
    "metrics_blueprint",
]
