"""The list of jobs: what a filter finds and counts, pages without gaps, and what is done to many jobs."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from spoolkit import SpoolKit, application, spool
from spoolkit.admin import filters, lookup, pages, redaction
from spoolkit.dashboard import ALL_RIGHTS, Access, dashboard_blueprint
from spoolkit.dashboard import jobs as page_of_jobs
from spoolkit.job import State, Status
from spoolkit.spooling.standalone import Spooler

SAME = {"Sec-Fetch-Site": "same-origin"}


@spool(retries=0)
def breaks(word: str, times: int = 1) -> None:
    raise ValueError(word)


@spool
def works(word: str) -> None:
    pass


@spool
def signs_in(user: str, times: int = 1, *, password: str) -> None:
    pass


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", RIGHTS=ALL_RIGHTS)
    SpoolKit(app)
    access = lambda request: Access("anna", app.config["RIGHTS"])  # noqa: E731
    app.register_blueprint(dashboard_blueprint(access), url_prefix="/spool")
    with app.app_context():
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def run_all() -> None:
    Spooler(application.settings().spool).run_due()


def listed(text: str) -> list[str]:
    """The ids of the jobs on a page, in its order."""
    return re.findall(r'id="job-([^"]+)"', text)


def tabs(text: str) -> dict[str, str]:
    """The counts by state."""
    return dict(re.findall(r">(all|queued|running|retrying|done|dead|cancelled|lost) ([\d,]+\+?)</a>", text))


def search(client: FlaskClient, q: str = "", **more: Any) -> str:
    answer = client.get("/spool/jobs", query_string={"q": q, **more})
    assert answer.status_code == 200
    return answer.text


def test_a_filter_finds_jobs_by_record_and_by_file_and_its_counts_follow(client: FlaskClient) -> None:
    dead = [breaks("no answer", times=3).id, breaks("no Milk").id]
    done = works("x").id
    run_all()
    waiting = [works.using(delay=60, tags=["big"])("later").id, works.using(delay=60)("sooner").id]
    everything = sorted([*dead, done, *waiting], reverse=True)
    page = search(client)
    assert listed(page) == everything
    assert tabs(page) == {"all": "5", "queued": "2", "running": "0", "retrying": "0", "done": "1", "dead": "2",
                          "cancelled": "0", "lost": "0"}  # fmt: skip
    for q, ids in {
        f"task:{works.name}": [*reversed(waiting), done],
        f"task:{breaks.name}": [*reversed(dead)],
        "state:dead,done": sorted([*dead, done], reverse=True),
        "tag:big": waiting[:1],
        "queue:default": everything,
        "queue:slow": [],
        f"id:{waiting[1]}": waiting[1:],
        "error:milk": dead[1:],
        "error:valueerror": [*reversed(dead)],
        "arg.word:later": waiting[:1],
        "arg.times:3": dead[:1],
        'arg.word:"no answer" arg.times:3': dead[:1],
        "arg.word:none": [],
    }.items():
        page = search(client, q)
        assert listed(page) == ids, q
        count = len(ids) if "state:" not in q else 5
        assert tabs(page)["all"] == str(count), q
        assert f"{len(ids)} job" in page, q


def test_pages_are_without_a_gap_and_without_a_double_whatever_comes_meanwhile(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_of_jobs, "PER_PAGE", 7)
    finished = [works("x").id for _ in range(20)] + [breaks("x").id for _ in range(10)]
    run_all()
    waiting = [works.using(delay=60)("x").id for _ in range(15)]
    seen, before, number = [], None, 0
    while True:
        page = search(client, **({"before": before} if before else {}))
        seen += listed(page)
        works.using(delay=60)("newer than all pages but the first")
        number += 1
        older = re.search(r'before=(\w+)[^"]*" rel="next"', page)
        if older is None:
            break
        before = older[1]
    assert seen == sorted([*finished, *waiting], reverse=True)
    assert number == 7


@pytest.mark.parametrize(
    "q", ["arg.word:odd", *(pytest.param(q, marks=pytest.mark.matrix) for q in ("error:x", "queue:default"))]
)
def test_a_slow_search_goes_on_where_it_has_stopped(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, q: str
) -> None:
    monkeypatch.setattr(pages, "WINDOW", 4)
    monkeypatch.setattr(pages, "MAX_ROUNDS", 1)
    ids = [breaks("odd" if number % 2 else "even x").id for number in range(20)]
    run_all()
    monkeypatch.setattr(page_of_jobs, "PER_PAGE", 100)
    wanted = {"error:x": ids[::2], "arg.word:odd": ids[1::2], "queue:default": ids}[q]
    seen, before = [], None
    for _ in range(20):
        page = search(client, q, **({"before": before} if before else {}))
        seen += listed(page)
        assert "+" in tabs(page)["all"]
        older = re.search(r'before=(\w+)[^"]*" rel="next"', page)
        if older is None:
            break
        before = older[1]
    assert seen == sorted(wanted, reverse=True)


def test_a_filter_that_makes_no_sense_can_be_corrected(client: FlaskClient) -> None:
    answer = client.get("/spool/jobs?q=dead")
    assert answer.status_code == 400
    assert "write one of state:dead or task:dead" in answer.text
    assert 'name="q" value="dead"' in answer.text


def test_without_the_right_to_see_arguments_nobody_finds_jobs_by_them(app: Flask, client: FlaskClient) -> None:
    works.using(delay=60)("hidden")
    app.config["RIGHTS"] = ALL_RIGHTS - {"arguments"}
    assert client.get("/spool/jobs?q=arg.word:hidden").status_code == 403
    form = {"what": "all", "q": "arg.word:hidden", "until": "f" * 32, "confirmed": "yes"}
    assert client.post("/spool/jobs/cancel", headers=SAME, data=form).status_code == 403
    assert client.get("/spool/jobs?q=arg.password:x").status_code == 400


def test_the_key_of_a_limit_is_shown_to_those_who_may_see_arguments(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Status("18af", works.name, State.QUEUED, parked_for=f"{works.name} opal")
    monkeypatch.setattr(redaction, "status", lambda status: status)
    monkeypatch.setattr(pages, "page", lambda *args, **options: pages.Page([waits], None))
    assert f"under the limit of {works.name} opal" in search(client)
    app.config["RIGHTS"] = ALL_RIGHTS - {"arguments"}
    page = search(client)
    assert "under the limit of its task" in page
    assert "opal" not in page


def test_how_far_a_search_has_looked_tells_no_part_of_a_secret_value(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_ARGUMENTS", 1)
    monkeypatch.setattr(pages, "MAX_ROUNDS", 1)
    for number in range(3):
        signs_in(f"user{number}", password="open sesame 4711")
    signs_in("user5", 5, password="x")
    run_all()
    for part in ("no such user", "open sesame", "sesame 4711", "4711", "471"):
        assert "No jobs match." in search(client, f'arg.user:"{part}"'), part
    assert len(listed(search(client, "arg.user:user5"))) == len(listed(search(client, "arg.times:5"))) == 1


def fields(page: str) -> list[tuple[str, str]]:
    """What the form of a page sends with its first button."""
    return [
        (name, html.unescape(value)) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page)
    ]


def confirmed(client: FlaskClient, url: str, page: str) -> str:
    answer = client.post(url, headers=SAME, data=fields_as_dict(page))
    assert answer.status_code == 200
    return answer.text


def fields_as_dict(page: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in fields(page):
        found.setdefault(name, []).append(value)
    return found


def test_selected_jobs_are_counted_before_something_is_done_to_them(client: FlaskClient) -> None:
    dead = [breaks("no").id for _ in range(3)]
    done = works("x").id
    run_all()
    form = {"what": "selected", "id": [*dead[:2], done, "f" * 32], "q": "state:dead"}
    page = client.post("/spool/jobs/retry", headers=SAME, data=form).text
    assert "<h1>Retry: 2 jobs?</h1>" in page
    assert "In these states: 2 dead." in page
    assert "2 other selected jobs cannot" in page
    assert '<a href="/spool/jobs?q=state:dead">Back</a>' in page, "the filter is not lost"
    assert all(lookup.find(id).state is State.DEAD for id in dead), "nothing is done before it is confirmed"
    assert "<h1>2 jobs retried</h1>" in confirmed(client, "/spool/jobs/retry", page)
    assert [lookup.find(id).state for id in dead] == [State.QUEUED, State.QUEUED, State.DEAD]
    assert [(one.kind, one.by) for one in lookup.details(dead[0]).events] == [("retried", "anna")]


def test_only_jobs_that_there_are_are_looked_for(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [works("waits").id, breaks("dies").id, works("ends").id]
    looked_for, find = [], lookup.find
    monkeypatch.setattr(lookup, "find", lambda id, **options: looked_for.append(id) or find(id, **options))
    unknown = [f"{number:032x}" for number in range(2000)]
    data = {"what": "selected", "id": [*ids, "../x", "", *unknown]}
    answer = client.post("/spool/jobs/cancel", headers=SAME, data=data)
    assert "Cancel: 3 jobs?" in answer.text
    assert sorted(looked_for) == sorted(ids)


@pytest.mark.parametrize(("verb", "q", "says", "after"), [
    ("retry", "error:milk", "2 jobs retried", {State.QUEUED: 5, State.DEAD: 1, State.DONE: 1}),
    ("cancel", "", "3 jobs cancelled or asked to stop", {State.CANCELLED: 3, State.DEAD: 3, State.DONE: 1}),
    ("run", "arg.word:b", "1 job made due now", {State.QUEUED: 3, State.DEAD: 3, State.DONE: 1}),
    ("purge", "state:dead,queued", "3 jobs deleted", {State.QUEUED: 3, State.DONE: 1}),
])  # fmt: skip
def test_all_that_match_are_counted_before_and_only_those_that_were_there(
    client: FlaskClient, verb: str, q: str, says: str, after: dict[State, int]
) -> None:
    for word in ("no milk", "no Milk", "no sugar"):
        breaks(word)
    works("x")
    run_all()
    for word in "abc":
        works.using(delay=600)(word)
    url = f"/spool/jobs/{verb}"
    form = {**fields_as_dict(search(client, q)), "what": "all"}
    page = client.post(url, headers=SAME, data=form).text
    number = says.split()[0]
    assert re.search(rf"<h1>[\w ]+: {number} jobs?\?</h1>", page)
    came_later = works.using(delay=600)("b").id
    assert says in confirmed(client, url, page)
    states = [status.state for status in lookup.jobs() if status.id != came_later]
    assert {state: states.count(state) for state in states} == after
    assert lookup.find(came_later).state is State.QUEUED


def test_an_action_on_all_is_bounded_and_says_what_is_left(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_of_jobs, "MAX_AT_ONCE", 3)
    for _ in range(5):
        works.using(delay=600)("x")
    form = {**fields_as_dict(search(client)), "what": "all"}
    page = client.post("/spool/jobs/cancel", headers=SAME, data=form).text
    assert "3 at most are done at once" in page
    page = confirmed(client, "/spool/jobs/cancel", page)
    assert "<h1>3 jobs cancelled" in page
    assert "More jobs match." in page
    page = client.post("/spool/jobs/cancel", headers=SAME, data=fields_as_dict(page)).text
    assert "<h1>Cancel: 2 jobs?</h1>" in page
    assert "<h1>2 jobs cancelled" in confirmed(client, "/spool/jobs/cancel", page)


def test_a_forged_form_reaches_no_job_that_its_filter_does_not_name(client: FlaskClient) -> None:
    mine, other = works.using(delay=600)("x").id, breaks.using(delay=600)("x").id
    came_later = works.using(delay=600)("x").id
    form = {"what": "all", "q": f"task:{works.name}", "until": mine, "id": [other], "confirmed": "yes"}
    assert "<h1>1 job cancelled" in client.post("/spool/jobs/cancel", headers=SAME, data=form).text
    states = [lookup.find(id).state for id in (mine, other, came_later)]
    assert states == [State.CANCELLED, State.QUEUED, State.QUEUED]
    for id in ("../../etc/passwd", "\0", "x" * 10_000, ""):
        form = {"what": "selected", "id": [id], "confirmed": "yes"}
        assert client.post("/spool/jobs/purge", headers=SAME, data=form).status_code == 400


def test_what_was_refused_is_said_with_its_reason(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from spoolkit.admin import actions
    from spoolkit.errors import JobStateError

    ids = [works.using(delay=600)("x").id for _ in range(3)]
    cancel = actions.cancel

    def refuses_one(id: str, **options: Any) -> State:
        if id == ids[1]:
            raise JobStateError(f"job {id}: its file is locked by <another> process", job=id, state="queued")
        return cancel(id, **options)

    monkeypatch.setattr(actions, "cancel", refuses_one)
    form = {"what": "selected", "id": ids, "confirmed": "yes"}
    page = client.post("/spool/jobs/cancel", headers=SAME, data=form).text
    assert "<h1>2 jobs cancelled" in page
    assert "Not possible for 1" in page
    assert "its file is locked by &lt;another&gt; process" in page


def test_nothing_to_do_is_an_error_that_says_what_to_select(client: FlaskClient) -> None:
    works.using(delay=600)("x")
    for form in ({"what": "selected"}, {"what": "selected", "id": "f" * 32}, {"what": "all", "until": "f" * 32}):
        answer = client.post("/spool/jobs/retry", headers=SAME, data={**form, "confirmed": "yes"})
        assert answer.status_code == 400, form
        assert "none of these jobs is dead" in answer.text


def test_buttons_are_those_of_the_rights(app: Flask, client: FlaskClient) -> None:
    works.using(delay=600)("x")
    app.config["RIGHTS"] = {"view"}
    page = search(client)
    assert "formaction" not in page
    assert "checkbox" not in page
    app.config["RIGHTS"] = {"view", "cancel"}
    page = search(client)
    assert set(re.findall(r'formaction="([^"]+)"', page)) == {"/spool/jobs/cancel"}


HOSTILE = "<script>alert(1)</script>\x1b[31m\x00\u202e" + "x" * 10_000


def test_what_a_job_contains_is_text_and_cut(client: FlaskClient) -> None:
    @spool(name="<b>\x1b[1m" + "n" * 150, retries=0)
    def hostile() -> None:
        raise type("<i>Error", (Exception,), {})(HOSTILE)

    hostile()
    run_all()
    page = search(client)
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert not set("\x1b\x00\u202e") & set(page)
    assert len(page) < 10_000
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    q = '"><script>alert(2)</script>'
    answer = client.get("/spool/jobs", query_string={"q": q})
    assert "<script>alert(2)" not in answer.text


def test_the_filter_of_a_page_is_in_each_of_its_links(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_of_jobs, "PER_PAGE", 2)
    for _ in range(3):
        works.using(delay=600)("a b")
    q = 'state:queued arg.word:"a b"'
    page = html.unescape(search(client, q))
    older = re.search(r'href="([^"]+)" rel="next"', html.unescape(page).replace("&amp;", "&"))
    assert older
    assert len(listed(client.get(older[1]).text)) == 1
    assert str(filters.parse(q).with_states({State.DEAD})) == 'state:dead arg.word:"a b"'


def test_who_may_not_see_arguments_searches_in_no_error(app: Flask, client: FlaskClient) -> None:
    breaks("no milk")
    run_all()
    app.config["RIGHTS"] = {"view", "retry"}
    assert client.get("/spool/jobs?q=error:milk").status_code == 403
    assert client.post("/spool/jobs/retry", headers=SAME, data={"what": "all", "q": "error:milk"}).status_code == 403
    assert "arg.user_id" not in client.get("/spool/jobs").text
