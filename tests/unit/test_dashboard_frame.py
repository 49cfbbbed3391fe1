"""The frame of the page: who is let in, what each answer has, how it is refreshed, and what the wheel holds."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from flask_wtf import CSRFProtect
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import StrictUndefined
from uwsgi_server import wait_until
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

import spoolkit
from spoolkit import ConfigurationError, SpoolKit, application, current_job, spool
from spoolkit.admin import actions, changes
from spoolkit.dashboard import (
    ALL_RIGHTS,
    READ_ONLY,
    Access,
    access,
    basic_auth,
    blueprint,
    chart,
    dashboard_blueprint,
    routes,
)
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import clock

PROJECT = Path(__file__).parents[2]
VENDOR = Path(spoolkit.__file__).parent / "dashboard" / "static" / "vendor"
PASSWORD = "SPOOLKIT_DASHBOARD_PASSWORD"


@spool(retries=0)
def greet(name: str) -> None:
    if not name:
        raise ValueError("nobody")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SECRET_KEY="x")
    SpoolKit(app)
    with app.app_context():
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of the page under /spool, which anna sees with all rights."""
    app.register_blueprint(dashboard_blueprint(lambda request: Access("anna", ALL_RIGHTS)), url_prefix="/spool")
    return app.test_client()


def run_all() -> None:
    Spooler(application.settings().spool).run_due()


# What comes from elsewhere


def test_what_comes_from_elsewhere_is_what_was_published() -> None:
    vendored = tomllib.loads((VENDOR / "vendor.toml").read_text())
    files = {name: file for package in vendored.values() for name, file in package["files"].items()}
    assert {path.name for path in VENDOR.iterdir()} == {"vendor.toml", *files}
    for name, file in files.items():
        digest = base64.b64encode(hashlib.sha512((VENDOR / name).read_bytes()).digest()).decode()
        assert f"sha512-{digest}" == file["integrity"]


# Who is let in


def closed(app: Flask, caplog: pytest.LogCaptureFixture, **options: Any) -> str | None:
    """Why the page is a 404 for a request; ``None`` if it is not."""
    access.log._complaints.set({})
    with caplog.at_level(logging.ERROR, "spoolkit"):
        caplog.clear()
        answer = app.test_client().get("/spool/", **options)
    assert answer.status_code in (200, 404)
    assert bool(caplog.messages) == (answer.status_code == 404)
    return caplog.messages[0] if caplog.messages else None


DEVELOPERS: list[tuple[bool, str, str, dict[str, str], str | None]] = [
    (True, "127.0.0.1", "localhost:5000", {}, None),
    (True, "127.0.0.1", "127.0.0.1", {}, None),
    (True, "127.8.8.8", "LOCALHOST", {}, None),
    (True, "::1", "[::1]:5000", {}, None),
    (True, "::ffff:127.0.0.1", "localhost", {}, None),
    (False, "127.0.0.1", "localhost", {}, "not in debug mode"),
    (True, "192.0.2.7", "localhost", {}, "comes from 192.0.2.7"),
    (True, "", "localhost", {}, "comes from"),
    (True, "::ffff:192.0.2.7", "localhost", {}, "comes from"),
    (True, "127.0.0.1", "shop.example", {}, "for the host shop.example"),
    (True, "127.0.0.1", "localhost.evil.example", {}, "for the host"),
    (True, "127.0.0.1", "127.0.0.1.evil.example", {}, "for the host"),
    (True, "127.0.0.1", "evil.example:80@localhost", {}, "for the host"),
    (True, "127.0.0.1", "localhost", {"X-Forwarded-For": "192.0.2.7"}, "passed a proxy"),
    (True, "127.0.0.1", "localhost", {"Forwarded": "for=192.0.2.7"}, "passed a proxy"),
    (True, "127.0.0.1", "localhost", {"X-Real-IP": "192.0.2.7"}, "passed a proxy"),
    (True, "127.0.0.1", "localhost", {"Via": "1.1 cache"}, "passed a proxy"),
    (True, "127.0.0.1", "localhost", {"X-Forwarded-Server": "shop.example"}, "passed a proxy"),
    (True, "127.0.0.1", "localhost", {"X-Original-Forwarded-For": "192.0.2.7"}, "passed a proxy"),
    (True, "127.0.0.1", "localhost", {"CF-Connecting-IP": "192.0.2.7"}, "passed a proxy"),
    (True, "127.0.0.1", "localhost", {"True-Client-IP": "192.0.2.7"}, "passed a proxy"),
    (True, "127.0.0.1", "localhost", {"Tailscale-User-Login": "anna"}, "passed a proxy"),
]


def test_without_access_the_page_is_open_to_a_developer_on_the_machine_alone(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    app.register_blueprint(dashboard_blueprint(), url_prefix="/spool")
    for debug, address, host, headers, reason in DEVELOPERS:
        app.debug = debug
        environ = {"REMOTE_ADDR": address, "HTTP_HOST": host}
        said = closed(app, caplog, environ_overrides=environ, headers=headers)
        if reason is None:
            assert said is None, (address, host)
        else:
            assert said is not None, (address, host, headers)
            assert reason in said
            assert 'dashboard_blueprint(access=...), such as access=basic_auth("SPOOLKIT_DASHBOARD_PASSWORD")' in said


def login(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize("where", ["config", "environment"])
def test_basic_auth_asks_for_the_password_and_takes_any_name(
    app: Flask, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "config":
        app.config[PASSWORD] = "open sésame"
        monkeypatch.setenv(PASSWORD, "another one")
    else:
        monkeypatch.setenv(PASSWORD, "open sésame")
    app.register_blueprint(dashboard_blueprint(basic_auth(PASSWORD)), url_prefix="/spool")
    client = app.test_client()
    wrong: list[dict[str, str]] = [
        {}, login("anna", ""), login("anna", "open sesame"), login("anna", "another one"),
        {"Authorization": "Basic ?"}, {"Authorization": "Basic"}, {"Authorization": "Bearer open sésame"},
    ]  # fmt: skip
    for headers in wrong:
        answer = client.get("/spool/", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="spoolkit", charset="UTF-8"'
        assert "spoolkit.css" not in answer.text
    for user, name in (("anna", "anna"), ("", "somebody"), ("<b>\x1b[1m", "&lt;b&gt;")):
        answer = client.get("/spool/", headers=login(user, "open sésame"))
        assert answer.status_code == 200
        assert f"<span>{name}" in answer.text


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_password_the_page_is_closed(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    app.config[PASSWORD] = value
    app.debug = True
    app.register_blueprint(dashboard_blueprint(basic_auth(PASSWORD)), url_prefix="/spool")
    said = closed(app, caplog, headers=login("anna", ""))
    assert said is not None
    assert f"set the password {PASSWORD}" in said


def test_a_right_that_there_is_not_is_refused_where_it_is_given() -> None:
    for make in (lambda: Access("anna", {"view", "fly"}), lambda: basic_auth(PASSWORD, can=["fly"])):
        with pytest.raises(ConfigurationError, match=r"'fly' is no right: give some of view, arguments, logs, retry"):
            make()
    with pytest.raises(ConfigurationError, match="user is 5: give a text"):
        Access(5, READ_ONLY)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="access is 'no': give a function"):
        dashboard_blueprint("no")  # type: ignore[arg-type]
    assert Access("a" * 1000 + "\n", "view") == Access("a" * 80, {"view"})


# What each answer has


def test_each_link_of_a_page_leads_somewhere_and_nothing_is_inline(client: FlaskClient) -> None:
    greet("you")
    greet("")
    run_all()
    greet.using(delay=60)("later")
    links = set[str]()
    for path in ("/spool", "/spool/", "/spool/jobs", "/spool/jobs?q=oops"):
        text = client.get(path).text
        found = re.findall(r'(?:href|src)="([^"#]+)"', text)
        assert len(found) > 4
        links.update(html.unescape(link) for link in found)
        assert re.findall(r"<script(?! src=)|<style|\sstyle=|\son\w+=|hx-on|javascript:", text) == []
    assert {link: status for link in sorted(links) if (status := client.get(link).status_code) != 200} == {}


@pytest.mark.matrix
def test_a_site_whose_templates_are_strict_has_the_page_as_well(app: Flask, client: FlaskClient) -> None:
    app.jinja_env.undefined = StrictUndefined
    dead, waiting = greet("").id, greet.using(delay=60)("later").id
    run_all()
    pages = [page.rule for page in (route for one in blueprint.PAGES for route in one) if page.is_live]
    paths = [path for path in pages if "<" not in path]
    assert len(paths) > 5
    for path in [*paths, f"/jobs/{dead}", f"/jobs/{waiting}", "/jobs?q=state:dead"]:
        assert client.get(f"/spool{path}").status_code == 200, path
    for path, status in (("/jobs?q=oops", 400), ("/jobs/18af", 404)):
        assert client.get(f"/spool{path}").status_code == status
    for form in ({"id": dead, "what": "selected"}, {"what": "all", "until": "f" * 32}):
        for more in ({}, {"confirmed": "yes"}):
            answer = client.post("/spool/jobs/retry", headers={"Origin": "http://localhost"}, data={**form, **more})
            assert answer.status_code in (200, 400)


def test_the_headers_of_an_answer(client: FlaskClient) -> None:
    for path, status in (("/spool/", 200), ("/spool/jobs?q=oops", 400), ("/spool/jobs/x/retry", 405)):
        answer = client.get(path)
        assert answer.status_code == status
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy


def test_a_file_is_kept_for_ever_under_the_digest_of_its_content_alone(client: FlaskClient) -> None:
    urls = re.findall(r'"(/spool/static/[^"]+)"', client.get("/spool/").text)
    assert len(urls) == 4
    for url in urls:
        answer = client.get(url)
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        assert answer.mimetype in ("text/css", "text/javascript", "image/svg+xml")
        digest = url.split("/")[3]
        assert client.get(url.replace(digest, "0" * 16)).headers["Cache-Control"] == "no-store"
        assert digest == hashlib.sha256(answer.data).hexdigest()[:16]
    for name in ("vendor.toml", "../__init__.py", "%2e%2e/access.py", "vendor/vendor.toml"):
        assert client.get(f"/spool/static/x/{name}").status_code == 404


# How it is refreshed


def test_a_page_is_answered_in_whole_and_its_refresh_by_the_block_alone(client: FlaskClient) -> None:
    job = greet("you")
    page = client.get("/spool/jobs")
    assert page.text.startswith("<!doctype html>")
    assert job.id in page.text
    block = client.get("/spool/jobs", headers={"HX-Request": "true"})
    assert block.text.strip().startswith('<p class="banner">There is no record of jobs')
    assert "<h1>Jobs</h1>" in block.text
    assert "<html" not in block.text


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Wait until nothing has changed for a while, and return the version. Nothing is out of date by its age."""
    monkeypatch.setattr(changes, "MAX_AGE", 1e12)

    def wait() -> str:
        wait_until(lambda: changes.version() == changes.version())
        return changes.version()

    return wait


def test_a_refresh_is_a_204_until_something_changes(client: FlaskClient, settled: Callable[[], str]) -> None:
    greet("you")
    run_all()

    def refreshed(version: str) -> Response:
        return client.get("/spool/jobs", headers={"HX-Request": "true", "If-None-Match": version})

    version = settled()
    answer = client.get("/spool/jobs")
    assert answer.headers["X-Spoolkit-Version"] == version
    assert f'data-version="{version}"' in answer.text
    answer = refreshed(version)
    assert (answer.status_code, answer.data) == (204, b"")
    for change in (lambda: greet("her"), run_all, lambda: greet.using(delay=60)("him"),
                   lambda: greet.using(priority=3)("it"), lambda: actions.cancel(greet("us").id)):  # fmt: skip
        change()
        answer = refreshed(version)
        assert answer.status_code == 200
        assert answer.headers["X-Spoolkit-Version"] != version
        version = settled()
        assert refreshed(version).status_code == 204


def test_what_changed_a_moment_ago_is_fetched_once_more(app: Flask, settled: Callable[[], str]) -> None:
    greet("you")
    now = settled()
    assert changes.version() == now
    os.utime(application.settings().spool, (clock.now() + 1000, clock.now() + 1000))
    assert len({changes.version() for _ in range(3)}) == 3


def test_progress_that_is_reported_through_a_mapping_is_a_change(app: Flask, settled: Callable[[], str]) -> None:
    versions = []

    @spool
    def counts() -> None:
        for done in range(3):
            current_job().progress(done, 3)
            versions.append(settled())

    counts()
    run_all()
    assert len(set(versions)) == 3


def damaged(path: str) -> None:
    Path(path).write_bytes(b"no database" * 1000)


def newer(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 9999")


def a_folder(path: str) -> None:
    Path(path).unlink()
    Path(path).mkdir()


def locked(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("BEGIN EXCLUSIVE")
    db.execute("UPDATE jobs SET task = task")
    return db


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (damaged, "file is not a database"),
        (newer, "a newer spoolkit has written it"),
        (a_folder, "unable to open database file"),
        (locked, "database is locked"),
    ],
)
def test_a_page_of_a_store_that_cannot_be_read_is_a_503_and_no_empty_list(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[str], Any], says: str
) -> None:
    monkeypatch.setattr(routes, "LOCK_TIMEOUT", 0.05)
    greet("you")
    run_all()
    path = locations.store().path
    locations.store().close()
    kept = trouble(path)
    for url in ("/spool/", "/spool/jobs"):
        answer = client.get(url)
        assert answer.status_code == 503
        assert says in answer.text
        assert "Not available" in answer.text
    if kept is not None:
        kept.close()


def test_a_store_that_is_not_there_is_said_and_is_no_empty_list(client: FlaskClient) -> None:
    greet("")
    run_all()
    path = locations.store().path
    assert "There is no record" not in client.get("/spool/jobs").text
    locations.store().close()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    for headers in ({}, {"HX-Request": "true"}):
        text = client.get("/spool/jobs", headers=headers).text
        assert f"There is no record of jobs: {path} does not exist." in text
        assert '<span class="state dead">' in text


# Wherever it is


def test_two_pages_at_once_each_link_to_themselves(app: Flask) -> None:
    greet("you")
    app.register_blueprint(dashboard_blueprint(lambda request: Access("anna", ALL_RIGHTS)), url_prefix="/")
    ben = dashboard_blueprint(lambda request: Access("ben", READ_ONLY))
    app.register_blueprint(ben, url_prefix="/staff/deep", name="second")
    client = app.test_client()
    for prefix, user, has_actions in (("", "anna", True), ("/staff/deep", "ben", False)):
        text = client.get(f"{prefix}/jobs").text
        links = re.findall(r'(?:href|src|action)="(/[^"]*)"', text)
        assert links
        assert all(link.startswith(f"{prefix}/") for link in links)
        assert prefix or not any(link.startswith("/staff") for link in links)
        assert f"<span>{user}</span>" in text
        assert ("formaction" in text) is has_actions


@pytest.mark.parametrize("how", ["mounted", "forwarded"])
def test_behind_a_prefix_that_the_application_does_not_know(app: Flask, client: FlaskClient, how: str) -> None:
    job = greet.using(delay=60)("you")
    if how == "mounted":
        outer: Any = DispatcherMiddleware(Flask("outer"), {"/site": app.wsgi_app})
        browser, base, headers = Client(outer), "/site/spool", {}
    else:
        browser, base = Client(ProxyFix(app.wsgi_app, x_prefix=1, x_host=1, x_proto=1)), "/spool"
        headers = {"X-Forwarded-Prefix": "/site", "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "https"}
    text = browser.get(f"{base}/jobs", headers=headers).text
    links = re.findall(r'(?:href|src|action)="(/[^"]*)"', text)
    assert links
    assert all(link.startswith("/site/spool") for link in links)
    origin = {"Origin": "https://shop.example" if how == "forwarded" else "http://localhost"}
    url, form = f"{base}/jobs/{job.id}/run", {"confirmed": "yes"}
    answer = browser.post(url, headers={**headers, **origin}, data=form)
    assert answer.status_code == 303
    assert "/site/spool/jobs" in answer.headers["Location"]
    assert browser.post(url, headers={**headers, "Origin": "http://evil.example"}, data=form).status_code == 403


def test_a_host_that_a_proxy_has_replaced_is_told_with_the_line_to_add(client: FlaskClient) -> None:
    answer = client.post("/spool/jobs/x/run", headers={"Origin": "https://shop.example"})
    assert answer.status_code == 403
    assert "proxy_set_header Host $host;" in answer.text


# The overview


def test_the_overview_tells_what_is_due_what_has_ended_and_what_is_paused(client: FlaskClient) -> None:
    for name in ("you", "", "her"):
        greet(name)
    run_all()
    greet("later")
    text = client.get("/spool/").text
    assert re.search(r"<dt>Due now</dt><dd>1 job", text)
    assert re.search(r"<dt>Done in the last hour</dt><dd>2 \(50 % within", text)
    assert '<dt>Dead in the last hour</dt><dd><a href="/spool/dead">1</a></dd>' in text
    assert {kind: text.count(f'<rect class="{kind}"') for kind in ("good", "bad")} == {"good": 1, "bad": 1}
    assert 'aria-label="Jobs that ended in each minute of the last hour: 2 done, 1 dead.' in text
    assert "No job runs." in text


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=70))
def test_bars_are_within_the_chart_and_show_whatever_is_not_zero(columns: list[tuple[int, int]]) -> None:
    found = chart.bars(columns)
    assert len(found) == sum(bool(number) for column in columns for number in column)
    for bar in found:
        assert bar.height >= 0
        assert 0 <= bar.y <= bar.y + bar.height <= chart.HEIGHT
        assert 0 <= bar.x < bar.x + bar.width <= chart.STEP * len(columns)


# Beside the site's own protection of forms


@pytest.mark.parametrize("is_first", [True, False])
def test_forms_have_the_token_of_flask_wtf_where_the_site_asks_for_it(app: Flask, is_first: bool) -> None:
    blueprint = dashboard_blueprint(lambda request: Access("anna", ALL_RIGHTS))
    protect = CSRFProtect()
    if is_first:
        protect.init_app(app)
    app.register_blueprint(blueprint, url_prefix="/spool")
    if not is_first:
        protect.init_app(app)
    jobs = [greet.using(delay=60)("you").id for _ in range(2)]
    client = app.test_client()
    # A site with https: Flask-WTF asks for a Referer as well, which a policy of "no-referrer" would take away.
    options: dict[str, Any] = {"base_url": "https://localhost", "headers": {
        "Sec-Fetch-Site": "same-origin", "Referer": "https://localhost/spool/jobs"}}  # fmt: skip
    page = client.get("/spool/jobs", base_url="https://localhost").text
    forms = re.findall(r'<form method="post".*?</form>', page, re.DOTALL)
    tokens = [re.findall(r'name="csrf_token" value="([^"]+)"', form) for form in forms]
    assert forms
    assert [len(found) for found in tokens] == [1] * len(forms)
    form = {"what": "selected", "id": jobs}
    assert client.post("/spool/jobs/cancel", data=form, **options).status_code == 400
    asked = client.post("/spool/jobs/cancel", data={**form, "csrf_token": tokens[0][0]}, **options)
    assert asked.status_code == 200
    (again,) = re.findall(r'name="csrf_token" value="([^"]+)"', asked.text)
    done = client.post("/spool/jobs/cancel", data={**form, "csrf_token": again, "confirmed": "yes"}, **options)
    assert "<h1>2 jobs cancelled" in done.text
    forged = {**options, "headers": {**options["headers"], "Sec-Fetch-Site": "cross-site"}}
    assert client.post("/spool/jobs/cancel", data={**form, "csrf_token": again}, **forged).status_code == 403


# What is installed


@pytest.mark.matrix
def test_the_wheel_holds_the_templates_the_style_sheet_and_the_scripts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(PROJECT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source / name)
    build = "from setuptools.build_meta import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    folder = PROJECT / "src" / "spoolkit" / "dashboard"
    files = [path for name in ("templates", "static") for path in (folder / name).rglob("*") if path.is_file()]
    assert len(files) > 8
    wanted = {str(path.relative_to(PROJECT / "src")) for path in files}
    assert wanted - set(zipfile.ZipFile(wheel).namelist()) == set()
