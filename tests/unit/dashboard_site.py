"""A site with the page under /spool, for tests of several pages: one application for each module of tests."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, current_app
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from spoolkit import SpoolKit, application
from spoolkit.dashboard import ALL_RIGHTS, Access, dashboard_blueprint
from spoolkit.spooling.standalone import Spooler

SAME = {"Sec-Fetch-Site": "same-origin"}


def make_app() -> Flask:
    """Return an application, which compiles each template once for all of its sites."""
    app = Flask("the_application")
    SpoolKit(app)
    app.register_blueprint(dashboard_blueprint(lambda request: current_app.config["ACCESS"]), url_prefix="/spool")
    return app


class Site:
    """The application with a spool directory of its own, visited by somebody with all rights at first."""

    def __init__(self, app: Flask, tmp_path: Path) -> None:
        self.app, self.client = app, FlaskClient(app)
        app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", ACCESS=Access("anna", ALL_RIGHTS))

    def visit(self, *rights: str) -> None:
        """Let somebody with these rights visit the page from now on."""
        self.app.config["ACCESS"] = Access("eve", rights)

    def page(self, path: str, status: int = 200) -> str:
        answer = self.client.get(f"/spool{path}")
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path: str, **data: str) -> TestResponse:
        return self.client.post(f"/spool{path}", data=data, headers=SAME)


def spool_dir() -> str:
    return os.fspath(application.settings().spool)


def run_due() -> None:
    Spooler(spool_dir()).run_due()
