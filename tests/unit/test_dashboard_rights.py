"""Who may do what on the page: each route by role and method, forged origins, and what really happened to a job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, redirect
from flask.testing import FlaskClient

from spoolkit import SpoolKit, application, spool
from spoolkit.admin import lookup
from spoolkit.dashboard import ALL_RIGHTS, READ_ONLY, Access, dashboard_blueprint
from spoolkit.dashboard import blueprint as assembled
from spoolkit.dashboard.routes import METHODS, Route
from spoolkit.errors import UnknownJobError
from spoolkit.job import State
from spoolkit.spooling.standalone import Spooler

ROUTES = [route for routes in assembled.PAGES for route in routes]
ACTIONS = [route for route in ROUTES if route.methods == ("POST",)]
CLOSED = [route for route in ROUTES if not route.is_open]
SAME = {"Sec-Fetch-Site": "same-origin"}
FORGED = [
    {},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Origin": "null"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:81"},
    {"Origin": "http://evil.example\\@localhost"},
    {"Origin": "file://localhost"},
    {"Origin": "http://[localhost"},
    {"Origin": ""},
    {"Referer": "http://localhost/spool/"},
]


@spool(retries=0)
def breaks(word: str) -> None:
    raise ValueError(word)


@spool
def works(word: str) -> None:
    pass


class Site:
    """An application with the page under /spool, for whoever ``access`` says."""

    def __init__(self, tmp_path: Path) -> None:
        self.access: Any = None
        self.app = Flask("the_application")
        self.app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
        SpoolKit(self.app)
        self.app.register_blueprint(dashboard_blueprint(lambda request: self.access), url_prefix="/spool")
        self.client: FlaskClient = self.app.test_client()

    def ask(self, route: Route, method: str, **options: Any) -> Any:
        # Of a route with variables, whatever they are: the right is asked for before anything is looked up.
        return self.client.open("/spool" + re.sub("<[^>]*>", "0" * 32, route.rule), method=method, **options)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with made.app.app_context():
        yield made


def test_a_stranger_learns_nothing(site: Site) -> None:
    for method in METHODS:
        unknown = site.client.open("/no-such-page", method=method)
        for route in CLOSED:
            answer = site.ask(route, method, headers=SAME)
            assert (answer.status_code, answer.data) == (404, unknown.data), (route.rule, method)
            assert dict(answer.headers) == dict(unknown.headers), (route.rule, method)


def test_a_stranger_is_not_led_to_the_page(site: Site) -> None:
    for path in ("/spool", "/spool//jobs", "//spool/jobs", "/spool/jobs//x", "/spool/jobs/"):
        assert site.client.get(path).status_code == 404, path


def test_a_response_of_the_site_is_what_a_visitor_gets(site: Site) -> None:
    site.access = redirect("/login")
    for route in CLOSED:
        for method in METHODS:
            assert site.ask(route, method, headers=SAME).headers["Location"] == "/login"


def test_a_method_that_the_route_does_not_have_is_refused(site: Site) -> None:
    site.access = Access("anna", ALL_RIGHTS)
    for route in CLOSED:
        for method in set(METHODS) - set(route.methods):
            answer = site.ask(route, method, headers=SAME)
            assert answer.status_code == 405, (route.rule, method)
            assert set(answer.headers["Allow"].split(", ")) == set(route.methods)


def test_a_right_that_is_missing_is_asked_for_by_the_function(site: Site) -> None:
    for route in (route for route in CLOSED if route.right is not None):
        site.access = Access("anna", ALL_RIGHTS - {route.right or ""})
        for method in route.methods:
            answer = site.ask(route, method, headers=SAME)
            assert answer.status_code == 403, (route.rule, method)
            if method != "HEAD":
                assert f"needs the right {route.right!r}".replace("'", "&#39;") in answer.text
        site.access = Access("anna", ALL_RIGHTS)
        answer = site.ask(route, route.methods[0], headers=SAME)
        assert answer.status_code not in (401, 403, 405, 500), route.rule


def test_a_forged_form_is_refused(site: Site) -> None:
    site.access = Access("anna", ALL_RIGHTS)
    for headers in FORGED:
        for route in ACTIONS:
            answer = site.ask(route, "POST", headers=headers, data={"confirmed": "yes"})
            assert answer.status_code == 403, (route.rule, headers)
            assert "was not sent by a page of this site" in answer.text


def test_each_action_is_a_405_for_get(site: Site) -> None:
    for rights in (ALL_RIGHTS, READ_ONLY):
        site.access = Access("anna", rights)
        assert {site.ask(route, "GET").status_code for route in ACTIONS} == {405}


def a_dead_job(_: Site) -> str:
    job = breaks("no")
    Spooler(application.settings().spool).run_due()
    assert lookup.find(job.id).state is State.DEAD
    return job.id


def a_delayed_job(_: Site) -> str:
    return works.using(delay=3600)("later").id


def a_done_job(_: Site) -> str:
    job = works("now")
    Spooler(application.settings().spool).run_due()
    return job.id


DEEDS = [
    ("retry", "retry", a_dead_job, lambda id: lookup.find(id).state is State.QUEUED),
    ("cancel", "cancel", a_delayed_job, lambda id: lookup.find(id).state is State.CANCELLED),
    ("run", "run", a_delayed_job, lambda id: (lookup.find(id).run_at or 0) < lookup.find(id).enqueued_at + 60),
    ("purge", "purge", a_done_job, lambda id: is_gone(id)),
]


def is_gone(id: str) -> bool:
    try:
        lookup.find(id)
    except UnknownJobError:
        return True
    return False


@pytest.mark.parametrize(("right", "verb", "make", "is_done"), DEEDS, ids=[deed[0] for deed in DEEDS])
def test_only_the_right_lets_a_deed_be_done(
    site: Site, right: str, verb: str, make: Callable[[Site], str], is_done: Callable[[str], bool]
) -> None:
    id = make(site)
    url, form = f"/spool/jobs/{id}/{verb}", {"confirmed": "yes"}
    for rights in (set(), READ_ONLY, ALL_RIGHTS - {right}):
        site.access = Access("anna", rights)
        assert site.client.post(url, headers=SAME, data=form).status_code == 403
        assert not is_done(id)
    for headers in FORGED:
        site.access = Access("anna", ALL_RIGHTS)
        assert site.client.post(url, headers=headers, data=form).status_code == 403
        assert not is_done(id)
    site.access = Access("anna", {"view", right})
    assert site.client.post(url, headers={"Origin": "http://localhost"}, data=form).status_code == 303
    assert is_done(id)


@pytest.mark.parametrize(("verb", "make", "kind"), [
    ("retry", a_dead_job, "retried"), ("cancel", a_delayed_job, "cancelled"), ("run", a_delayed_job, "run now"),
])  # fmt: skip
def test_who_did_it_is_an_event_of_the_job(site: Site, verb: str, make: Callable[[Site], str], kind: str) -> None:
    id, site.access = make(site), Access("anna", ALL_RIGHTS)
    site.client.post(f"/spool/jobs/{id}/{verb}", headers=SAME, data={"confirmed": "yes"})
    assert [(event.kind, event.by) for event in lookup.details(id).events] == [(kind, "anna")]
    output = site.app.test_cli_runner().invoke(args=["spool", "show", id]).output
    assert f"{kind} by anna" in output


def test_what_destroys_something_is_asked_for_first(site: Site) -> None:
    site.access = Access("anna", ALL_RIGHTS)
    for verb, make in (("cancel", a_delayed_job), ("purge", a_done_job)):
        id = make(site)
        before = lookup.find(id).state
        page = site.client.post(f"/spool/jobs/{id}/{verb}", headers=SAME)
        assert page.status_code == 200
        assert 'name="confirmed" value="yes"' in page.text
        assert lookup.find(id).state is before


def test_what_is_not_possible_is_said(site: Site) -> None:
    site.access = Access("anna", ALL_RIGHTS)
    answer = site.client.post(f"/spool/jobs/{a_done_job(site)}/retry", headers=SAME)
    assert answer.status_code == 409
    assert "is done: only dead jobs can be retried" in answer.text
