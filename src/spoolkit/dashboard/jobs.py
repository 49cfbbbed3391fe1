"""The list of jobs."""

from __future__ import annotations

from flask import request
from flask.typing import ResponseReturnValue

from spoolkit.admin import lookup
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import Routes, render

routes = Routes()

PER_PAGE = 100
"""Jobs that one page shows."""


@routes.page("/jobs")
def jobs(access: Access) -> ResponseReturnValue:
    """The jobs, newest first."""
    before = request.args.get("before") or None
    found = lookup.jobs(task=request.args.get("task") or None, before=before, limit=PER_PAGE + 1)
    shown = found[:PER_PAGE]
    return render("jobs.html", jobs=shown, older=shown[-1].id if len(found) > len(shown) else None)
