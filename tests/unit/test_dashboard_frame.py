"""The frame of the page: who is let in, what each answer has, how it is refreshed, and what the wheel holds."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

import spoolkit
from spoolkit import SpoolKit, spool
from spoolkit.dashboard import Access, dashboard_blueprint

VENDOR = Path(spoolkit.__file__).parent / "dashboard" / "static" / "vendor"


@spool
def greet(name: str) -> None:
    pass


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    with app.app_context():
        yield app


def client_of(app: Flask, prefix: str = "/spool", **rights: object) -> FlaskClient:
    app.register_blueprint(dashboard_blueprint(lambda request: Access("anna", {"view"})), url_prefix=prefix)
    return app.test_client()


def test_what_comes_from_elsewhere_is_what_was_published() -> None:
    vendored = tomllib.loads((VENDOR / "vendor.toml").read_text())
    files = {name: file for package in vendored.values() for name, file in package["files"].items()}
    assert {path.name for path in VENDOR.iterdir()} == {"vendor.toml", *files}
    for name, file in files.items():
        digest = base64.b64encode(hashlib.sha512((VENDOR / name).read_bytes()).digest()).decode()
        assert f"sha512-{digest}" == file["integrity"]


def test_a_page_is_answered_in_whole_and_its_refresh_by_the_block_alone(app: Flask) -> None:
    client, job = client_of(app), greet("you")
    page = client.get("/spool/jobs")
    assert page.status_code == 200
    assert page.text.startswith("<!doctype html>")
    assert job.id in page.text
    block = client.get("/spool/jobs", headers={"HX-Request": "true"})
    assert block.text.strip().startswith("<h1>Jobs</h1>")
    assert "<html" not in block.text


@pytest.mark.parametrize("path", ["/spool", "/spool/", "/spool/jobs"])
def test_each_link_of_a_page_leads_somewhere(app: Flask, path: str) -> None:
    client = client_of(app)
    page = client.get(path)
    links = re.findall(r'(?:href|src)="([^"#]+)"', page.text)
    assert len(links) > 4
    assert {link: client.get(link).status_code for link in links if client.get(link).status_code != 200} == {}
