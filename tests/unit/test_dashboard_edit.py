"""A job is run again with other arguments: what the form shows and keeps, and that nothing is half done."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from dashboard_site import SAME, Site, make_app, run_due
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import Job, registry, spool, thread
from spoolkit.admin import editing, lookup
from spoolkit.dashboard import ALL_RIGHTS
from spoolkit.job import State, Status

calls: list[Any] = []


@dataclass(frozen=True)
class Parcel:
    """Something to send."""

    weight: Decimal
    at: datetime


@spool(retries=0)
def send(to: str, count: int = 1, *, password: str = "none", parcel: Parcel | None = None) -> None:
    calls.append((to, count, password, parcel))
    if to == "nobody":
        raise ValueError(to)


@spool
def any_number(first: int, /, *rest: int, **named: int) -> None:
    calls.append((first, rest, named))


@spool(unique=True)
def once(number: int) -> None:
    calls.append(number)


@spool
def logs_in(user: str, server: dict[str, str] = {"host": "mail", "password": "open sesame"}) -> None:  # noqa: B006
    pass


@thread
def in_thread(word: str) -> None:
    calls.append(word)


class EditSite(Site):
    """A site whose form is filled in by a test."""

    def fields(self, id: str, status: int = 200) -> dict[str, str]:
        answer = self.client.get(f"/spool/jobs/{id}/edit")
        assert answer.status_code == status, answer.text
        return fields_in(answer.text)

    def submit(self, id: str, **changed: str) -> Any:
        data = {f"arg.{name}": text for name, text in {**self.fields(id), **changed}.items()}
        return self.client.post(f"/spool/jobs/{id}/run-again", data=data, headers=SAME)

    def made(self, id: str, **changed: str) -> str:
        answer = self.submit(id, **changed)
        assert answer.status_code == 303, answer.text
        new = str(answer.headers["Location"].rpartition("/")[2])
        assert new != id
        return new


def fields_in(text: str) -> dict[str, str]:
    found = re.findall(r'<textarea [^>]*name="arg\.([^"]*)"[^>]*>\n(.*?)</textarea>', text, re.DOTALL)
    return {html.unescape(name): html.unescape(value) for name, value in found}


def calls_now() -> list[Any]:
    """The calls of the jobs that are due."""
    calls.clear()
    run_due()
    return calls


@pytest.fixture(scope="module")
def app() -> Flask:
    return make_app()


@pytest.fixture
def site(app: Flask, tmp_path: Path) -> Iterator[EditSite]:
    made = EditSite(app, tmp_path)
    with app.app_context():
        yield made


def test_a_changed_argument_makes_a_new_job_and_the_old_one_stays(site: EditSite) -> None:
    old = send.using(tags=["mail"], headers={"request": "7"}, retries=3)("nobody", 2)
    run_due()
    before = lookup.find(old.id)
    new = site.made(old.id, to='"somebody"')
    found = lookup.details(new)
    assert found.arguments == (("somebody", 2), {})
    kept = found.status
    assert (kept.tags, dict(kept.headers or {}), kept.retries) == (("mail",), {"request": "7"}, 3)
    assert calls_now() == [("somebody", 2, "none", None)]
    assert lookup.find(old.id).state is before.state
    assert lookup.find(new).state is State.DONE


def test_who_did_it_is_an_event_of_both_jobs(site: EditSite) -> None:
    old = send("a")
    run_due()
    new = site.made(old.id)
    (event,) = lookup.details(old.id).events
    assert (event.kind, event.by, event.job) == ("run again as a new job", "anna", new)
    (event,) = lookup.details(new).events
    assert (event.kind, event.by, event.job) == ("made from an edited job", "anna", old.id)
    assert f'<a href="/spool/jobs/{old.id}"' in site.client.get(f"/spool/jobs/{new}").text
    run_due()
    assert lookup.find(new).state is State.DONE
    assert new in site.app.test_cli_runner().invoke(args=["spool", "show", old.id]).output


def test_values_beyond_json_are_kept_and_can_be_changed(site: EditSite) -> None:
    parcel = Parcel(Decimal("1.50"), datetime(2026, 11, 26, 12, tzinfo=UTC))
    old = send("a", parcel=parcel)
    new = site.made(old.id, count="5")
    assert lookup.details(new).arguments == (("a", 5), {"parcel": parcel})
    text = site.fields(old.id)["parcel"]
    assert '"1.50"' in text
    new = site.made(old.id, parcel=text.replace("1.50", "2.75"))
    assert lookup.details(new).arguments == (("a",), {"parcel": Parcel(Decimal("2.75"), parcel.at)})


def test_a_secret_value_is_blank_and_kept(site: EditSite) -> None:
    old = send("a", password="sesame-open")
    page = site.client.get(f"/spool/jobs/{old.id}/edit").text
    assert "sesame" not in page
    assert site.fields(old.id)["password"] == ""
    assert lookup.details(site.made(old.id)).arguments == (("a",), {"password": "sesame-open"})
    new = site.made(old.id, password='"other-word"')
    assert lookup.details(new).arguments == (("a",), {"password": "other-word"})
    wrong = site.submit(old.id, password='"typed-secret"', count="x")
    assert wrong.status_code == 400
    assert "typed-secret" not in wrong.text


def test_a_default_is_shown_without_the_secrets_within_it(site: EditSite) -> None:
    page = site.client.get(f"/spool/jobs/{logs_in('somebody').id}/edit").text
    assert "sesame" not in page
    assert html.escape('{"host": "mail", "password": "[redacted]"}', quote=True).replace("&quot;", "&#34;") in page


@pytest.mark.parametrize("depth", [500, 900, 5000, 100_000])
def test_a_value_that_nests_deeply_is_refused(site: EditSite, depth: int) -> None:
    answer = site.submit(send("somebody").id, to="[" * depth + "]" * depth)
    assert answer.status_code == 400
    assert 'aria-invalid="true"' in answer.text


def test_secret_values_within_a_value_are_put_back(site: EditSite) -> None:
    @spool(name="with.dict")
    def with_dict(data: dict[str, Any]) -> None:
        pass

    old = with_dict({"token": "sesame-open", "a": 1})
    text = site.fields(old.id)["data"]
    assert "sesame" not in text
    new = site.made(old.id, data=text.replace("1", "2"))
    assert lookup.details(new).arguments == (({"token": "sesame-open", "a": 2},), {})
    answer = site.submit(old.id, data='{"other": "[redacted]"}')
    assert answer.status_code == 400
    assert "stands for a value that was not there before" in answer.text


@pytest.mark.parametrize(("changed", "message"), [
    ({"to": "no quotes"}, "to is not JSON"),
    ({"to": ""}, "to has no default: give a value"),
    ({"count": '{"$decimal": "x"}'}, "count cannot be read"),
    ({"count": "NaN"}, "count cannot be read"),
    ({"parcel": '{"$dataclass": ["os:system", {}]}'}, "parcel cannot be read"),
    ({"to": '"\\ud800"'}, "to cannot be read"),
    ({"to": "[" * 50_000}, "to is not JSON"),
])  # fmt: skip
def test_what_is_wrong_is_said_beside_the_field_and_nothing_is_done(
    site: EditSite, changed: dict[str, str], message: str
) -> None:
    old = send("a")
    answer = site.submit(old.id, **changed)
    assert answer.status_code == 400
    assert re.search(rf'id="error-\d" role="alert">{message}', answer.text)
    for name, text in changed.items():
        assert fields_in(answer.text)[name] == text
    assert [status.id for status in lookup.jobs()] == [old.id]
    assert lookup.details(old.id).events == []


def test_arguments_that_do_not_fit_together_are_refused(site: EditSite) -> None:
    old = any_number(1, 2, three=3)
    assert site.fields(old.id) == {"first": "1", "rest": "[\n 2\n]", "named": '{\n "three": 3\n}'}
    assert lookup.details(site.made(old.id, rest="[5, 6]")).arguments == ((1, 5, 6), {"three": 3})
    assert lookup.details(site.made(old.id, rest="", named="")).arguments == ((1,), {})
    assert "give a JSON list" in html.unescape(site.submit(old.id, rest="7").text)
    assert "give a JSON object" in html.unescape(site.submit(old.id, named="[]").text)


def test_a_large_value_is_kept_unseen(site: EditSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "MAX_TEXT", 100)
    old = send("x" * 1000)
    assert site.fields(old.id)["to"] == ""
    assert lookup.details(site.made(old.id, count="3")).arguments == (("x" * 1000, 3), {})


def test_a_unique_job_that_is_there_already_is_named(site: EditSite) -> None:
    old = once(1)
    answer = site.submit(old.id)
    assert answer.status_code == 409
    assert "no new job was made" in answer.text
    assert lookup.details(site.made(old.id, number="2")).arguments == ((2,), {})


def test_a_task_that_is_unknown_here_cannot_be_edited(site: EditSite) -> None:
    @spool(name="gone.too")
    def task(a: int) -> None:
        pass

    old = task(1)
    del registry.this_process.tasks["gone.too"]
    site.fields(old.id, 404)
    assert site.client.post(f"/spool/jobs/{old.id}/run-again", headers=SAME).status_code == 404
    assert "Edit and run again" not in site.client.get(f"/spool/jobs/{old.id}").text


def test_a_thread_job_is_run_again_with_new_arguments(site: EditSite) -> None:
    old = in_thread("one")
    assert old.wait(10)
    assert "were not kept" in site.client.get(f"/spool/jobs/{old.id}/edit").text
    assert "has no default" in site.submit(old.id).text
    new = site.made(old.id, word='"two"')
    assert lookup.find(new).engine == "thread"
    assert Job.get(new).wait(10)


def test_arguments_of_another_version_are_filled_in_by_name(site: EditSite) -> None:
    @spool(name="changed.task")
    def task(a: int, b: int) -> None:
        pass

    by_position, by_name = task(1, 2), task(a=1, b=2)

    def changed(a: int, c: int, d: int) -> None:
        pass

    registry.this_process.tasks["changed.task"] = spool(name="changed.other")(changed).declared
    assert site.fields(by_position.id) == {"a": "", "c": "", "d": ""}
    assert site.fields(by_name.id) == {"a": "1", "c": "", "d": ""}
    assert "do not fit the task as it is now" in site.client.get(f"/spool/jobs/{by_name.id}/edit").text


@pytest.mark.parametrize("missing", ["view", "arguments", "edit"])
def test_each_right_is_asked_for(site: EditSite, missing: str) -> None:
    old = send("a")
    site.visit(*ALL_RIGHTS - {missing})
    assert site.client.get(f"/spool/jobs/{old.id}/edit").status_code == 403
    data = {"arg.to": '"b"', "arg.count": "1", "arg.password": "", "arg.parcel": ""}
    assert site.client.post(f"/spool/jobs/{old.id}/run-again", headers=SAME, data=data).status_code == 403
    site.visit(*ALL_RIGHTS)
    for forged in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
        assert site.client.post(f"/spool/jobs/{old.id}/run-again", headers=forged, data=data).status_code == 403
    assert [status.id for status in lookup.jobs()] == [old.id]


ATOMS = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")) | st.decimals(allow_nan=False)
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner), max_leaves=8
)


@given(st.lists(VALUES, min_size=1, max_size=3), st.dictionaries(st.sampled_from(["token", "x", "y"]), VALUES))
def test_a_form_that_is_not_changed_gives_the_same_call(rest: list[Any], named: dict[str, Any]) -> None:
    @spool(name="any.task")
    def task(first: Any, /, *rest: Any, **named: Any) -> None:
        pass

    found = lookup.Details(Status("0" * 32, "any.task", State.DONE), (tuple(rest), named), [], [])
    form = editing.form_of(found)
    # A browser sends each line break of a field as two characters.
    texts = {one.name: one.text.replace("\n", "\r\n") for one in form.fields}
    arguments, errors = editing.arguments_from(form, texts)
    assert errors == {}
    assert (arguments.args, arguments.kwargs) == (tuple(rest), named)
    json.dumps(texts)
