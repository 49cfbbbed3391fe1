"""What keeps jobs from running, or will, each with its remedy: the findings of ``flask spool doctor``."""

from __future__ import annotations

from flask import Flask, current_app
from flask.typing import ResponseReturnValue

from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import Routes, render
from spoolkit.doctor.examine import examine_application
from spoolkit.store import locations

routes = Routes()


@routes.page("/doctor")
def doctor(access: Access) -> ResponseReturnValue:
    """The findings of now. It reads every file that waits, so it is not refreshed by itself."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    findings = examine_application(app, only_own=True)
    return render("doctor.html", live=False, findings=findings, spool_dirs=locations.spool_dirs())
