"""The page of one job: what it shows, to whom, and what it makes of hostile contents."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from dashboard_site import SAME, Site, make_app, run_due
from flask import Flask, render_template_string

from spoolkit import SpoolKit, chain, current_job, registry, spool, thread
from spoolkit.admin import lookup, stack, surroundings
from spoolkit.dashboard import ALL_RIGHTS, Access, dashboard_blueprint
from spoolkit.dashboard import job as page_of_job
from spoolkit.job import Attempt, Progress, State, Status
from spoolkit.spooldir import dead
from spoolkit.system import clock

HOSTILE = "<script>alert(1)</script>\x1b[31mred\x1b]0;title\x07\u202e" + "x" * 10_000


@spool(retries=0)
def breaks(text: str, password: str = "") -> None:
    print("printed:", text)
    logging.getLogger(__name__).warning("logged")
    json.loads(text)


@spool(retries=1, backoff=0)
def fails_twice(text: str) -> None:
    print(f"attempt {current_job().attempt}")
    raise ValueError(text)


@spool
def returns(value: Any) -> Any:
    current_job().checkpoint({"at": 7, "token": "sesame-open"})
    return value


@thread
def in_thread(word: str) -> None:
    pass


@pytest.fixture(scope="module")
def app() -> Flask:
    return make_app()


@pytest.fixture
def site(app: Flask, tmp_path: Path) -> Iterator[Site]:
    made = Site(app, tmp_path)
    with app.app_context():
        yield made


def test_the_page_of_a_dead_job_says_why(site: Site) -> None:
    job = breaks("{")
    run_due()
    text = html.unescape(site.page(f"/jobs/{job.id}"))
    assert "breaks('{')" in text
    assert "JSONDecodeError: Expecting property name" in text
    assert "frames of libraries" in text
    assert "The whole traceback" in text
    assert "printed: {" in text
    assert "logged" in text
    timeline = re.findall(r'data-label="What">(?:<a [^>]*>)?([^<]*)', text)
    assert timeline[0] == "accepted"
    assert timeline[1].startswith("attempt 1 started, pid ")
    assert timeline[2].startswith("attempt 1 failed after ")
    assert timeline[-1] == "dead"


def test_a_read_only_visitor_sees_neither_arguments_nor_logs(site: Site) -> None:
    job = breaks("a-text-that-is-an-argument")
    run_due()
    site.visit("view")
    text = site.page(f"/jobs/{job.id}")
    hidden = ("a-text-that-is-an-argument", "printed", "logged", "frames of libraries", 'method="post"', "<h2>Call")
    assert [one for one in hidden if one in text] == []
    assert "JSONDecodeError" in text
    site.page(f"/jobs/{job.id}/attempts/1/log.txt", 403)


@pytest.mark.parametrize("right", ["arguments", "logs"])
def test_each_right_shows_its_part(site: Site, right: str) -> None:
    job = breaks("{")
    run_due()
    site.visit("view", right)
    text = site.page(f"/jobs/{job.id}")
    assert ("<h2>Call" in text) == (right == "arguments")
    assert ("printed" in text) == (right == "logs")


def test_the_log_of_an_attempt_is_a_file(site: Site) -> None:
    job = fails_twice("no")
    run_due()
    run_due()
    answer = site.client.get(f"/spool/jobs/{job.id}/attempts/2/log.txt")
    assert answer.mimetype == "text/plain"
    assert "attempt 2" in answer.text
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{job.id}-2.log.txt"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "has no attempt 3" in site.page(f"/jobs/{job.id}/attempts/3/log.txt", 404)
    site.visit("logs")
    assert "needs the right" in site.page(f"/jobs/{job.id}/attempts/2/log.txt", 403)


def test_secret_values_are_redacted_wherever_they_are(site: Site) -> None:
    job = breaks('the word is "sesame-open"', "sesame-open")
    run_due()
    page, log = site.page(f"/jobs/{job.id}"), site.page(f"/jobs/{job.id}/attempts/1/log.txt")
    assert "[redacted]" in page
    assert "sesame-open" not in page.split("<h2>Timeline")[1]
    assert "sesame-open" not in log
    done = returns({"token": "sesame-open", "a": 1})
    run_due()
    assert "sesame-open" not in site.page(f"/jobs/{done.id}")


def test_hostile_contents_are_text(site: Site) -> None:
    for job in (breaks(HOSTILE), fails_twice.using(tags=["<b>"], headers={"x": "<i>"})(HOSTILE), returns(HOSTILE)):
        run_due()
        text = site.page(f"/jobs/{job.id}")
        assert "&lt;script&gt;" in text
        for forbidden in ("<script>alert", "\x1b", "\x07", "\u202e", "<b>", "<i>"):
            assert forbidden not in text


def test_a_long_log_is_cut_and_its_link_leads_to_all_of_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_of_job, "MAX_TEXT", 100)
    job = breaks("y" * 500)
    run_due()
    text = site.page(f"/jobs/{job.id}")
    assert "This is the end of the log." in text
    assert "more characters" in text
    assert len(re.findall("yyy", text)) < 200
    assert "y" * 500 in site.page(f"/jobs/{job.id}/attempts/1/log.txt")


def test_a_job_of_many_attempts_shows_the_newest(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_of_job, "MAX_EVENTS", 2)
    job = fails_twice("no")
    run_due()
    run_due()
    text = site.page(f"/jobs/{job.id}")
    assert "only the newest are shown" in text
    assert 'id="attempt-2"' in text
    assert 'id="attempt-1"' not in text
    monkeypatch.setattr(page_of_job, "MAX_TEXTS", 1)
    monkeypatch.setattr(page_of_job, "MAX_EVENTS", 200)
    text = site.page(f"/jobs/{job.id}")
    assert ('id="log-2"' in text, 'id="log-1"' in text) == (True, False)
    assert "The log of this attempt is not shown here." in text


def test_the_result_is_shown_to_those_who_may_see_arguments(site: Site) -> None:
    job = returns("a-result")
    run_due()
    assert "a-result" in site.page(f"/jobs/{job.id}")
    site.visit("view", "logs")
    assert "a-result" not in site.page(f"/jobs/{job.id}")


def test_a_waiting_job_says_why_it_waits(site: Site) -> None:
    job = returns(1)
    assert "no spooler serves its queue" in site.page(f"/jobs/{job.id}")
    site.app.test_cli_runner().invoke(args=["spool", "pause"])
    assert "its queue is paused" in site.page(f"/jobs/{job.id}")
    later = returns.using(delay=3600)(1)
    assert "it is due in " in site.page(f"/jobs/{later.id}")


def test_the_jobs_of_a_chain_lead_to_each_other(site: Site) -> None:
    first = chain(returns.call(1), returns.call(2)).jobs[0]
    run_due()
    run_due()
    text = site.page(f"/jobs/{first.id}")
    after = re.search(r'After it in its chain</dt><dd><a href="/spool/jobs/(\w+)"', text)
    assert after is not None
    assert f'Before it in its chain</dt><dd><a href="/spool/jobs/{first.id}"' in site.page(f"/jobs/{after[1]}")


def test_a_job_of_a_task_that_is_unknown_here_is_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    @spool(name="gone.task", retries=0)
    def task(secret: str) -> None:
        pass

    job = task("sesame-open")
    del registry.this_process.tasks["gone.task"]
    assert "gone.task is not declared in this process" in site.page(f"/jobs/{job.id}")
    monkeypatch.setitem(site.app.config, "SPOOLKIT_UNKNOWN_GRACE", 0)
    run_due()
    assert lookup.find(job.id).state is State.DEAD
    text = site.page(f"/jobs/{job.id}")
    assert "gone.task" in text
    assert "sesame-open" not in text
    assert "the task is not known here" in text


def test_a_thread_job_is_shown(site: Site) -> None:
    job = in_thread("word")
    assert job.wait(10)
    text = site.page(f"/jobs/{job.id}")
    assert "The arguments were not kept." in text
    assert "<dt>Engine</dt><dd>thread" in text


@pytest.mark.parametrize("name", ["damaged <b>", "uwsgi_spoolfile_on_host_1_2_3", "with % and ? and #", "-"])
def test_a_dead_file_without_a_record_is_shown(site: Site, tmp_path: Path, name: str) -> None:
    spool_dir = str(tmp_path / "spool")
    returns(1)
    path = tmp_path / "spool" / name
    path.write_bytes(b"\x11\xff\xff\x00damaged")
    dead.quarantine(str(path), spool_dir, reason="it <i>cannot</i> be read", traceback="Traceback\nno such thing")
    text = site.page(f"/jobs/{quote(name)}")
    assert "it &lt;i&gt;cannot&lt;/i&gt; be read" in text
    assert "no such thing" in text
    assert "<b>" not in text


def test_an_unknown_job_is_a_404_and_a_refresh_of_nothing_new_a_204(site: Site) -> None:
    assert "is unknown" in site.page("/jobs/" + "0" * 32, 404)
    site.page("/jobs/..%2f..%2fetc", 404)
    job = returns(1)
    answer = site.client.get(f"/spool/jobs/{job.id}")
    # Not at once: what has changed a moment ago is never the same as before.
    assert answer.headers["X-Spoolkit-Version"]


def test_a_running_job_is_asked_where_it_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    job = returns(1)
    answer = site.client.post(f"/spool/jobs/{job.id}/stack", headers=SAME)
    assert answer.status_code == 409
    assert "does not run: it is queued" in answer.text
    frames = [stack.Frame("/app/tasks.py", 7, "<lambda>", own=True), stack.Frame("/lib/ssl.py", 8, "read", own=False)]
    found = stack.Stack(job.id, 1, 4242, 1_800_000_000.0, frames, [frames])
    monkeypatch.setattr(stack, "stack", lambda id: found)
    answer = site.client.post(f"/spool/jobs/{job.id}/stack", headers=SAME)
    assert '<span class="own">/app/tasks.py:7, in &lt;lambda&gt;</span>' in answer.text
    assert "<span>/lib/ssl.py:8, in read</span>" in answer.text
    assert "Another thread of the process" in answer.text
    site.visit(*ALL_RIGHTS - {"logs"})
    assert site.client.post(f"/spool/jobs/{job.id}/stack", headers=SAME).status_code == 403


def test_a_job_that_runs_has_its_live_log_and_the_actions_for_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    job = returns(1)
    now = lookup.details(job.id)
    status = replace(now.status, state=State.RUNNING, attempt=1, started_at=1_800_000_000.0, pid=4242)
    attempt = Attempt(1, 1_800_000_000.0, pid=4242, log="so far\n")
    progress = Progress(3, 10, "<b>three</b>")
    found = replace(now, status=replace(status, progress=progress), attempts=[attempt])
    monkeypatch.setattr(lookup, "details", lambda id, newest=None: found)
    text = site.page(f"/jobs/{job.id}")
    assert "so far" in text
    assert 'max="10" value="3' in text
    assert "&lt;b&gt;three" in text
    for button in ("Where is it now?", "Ask it to stop", "Kill its process"):
        assert button in text
    for other in ("Retry</button>", "Run now</button>", "Delete</button>"):
        assert other not in text


def test_why_a_job_waits_tells_the_key_of_its_limit_to_those_who_may_see_arguments(site: Site) -> None:
    task = f"{__name__}.returns"
    status = Status("0" * 32, task, State.QUEUED, parked_for=f'{task} ["anna"]', slot_at=clock.now() + 60)
    assert "anna" in surroundings.reasons_to_wait(status)[0] or "hidden" in surroundings.reasons_to_wait(status)[0]
    reasons = surroundings.reasons_to_wait(status, with_keys=False)
    assert reasons[0] == "it waits for room under the limit of its task"
    assert reasons[1].startswith("it waits for its slot under the rate of its task, in ")
    expired = replace(status, parked_for=None, slot_at=None, expires_at=1.0, paused=True)
    assert [reason[:15] for reason in surroundings.reasons_to_wait(expired)] == ["it has expired,", "its task is pau"]


def test_what_a_job_contains_is_text_where_the_site_has_switched_escaping_off(tmp_path: Path) -> None:
    class Unescaped(Flask):
        jinja_options = {"autoescape": False}  # noqa: RUF012 - as Flask declares it

    app = Unescaped("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SECRET_KEY="k" * 16)
    SpoolKit(app)
    app.register_blueprint(dashboard_blueprint(lambda request: Access("<anna>", ALL_RIGHTS)), url_prefix="/spool")
    with app.app_context():
        job = breaks("<script>alert(1)</script>")
        run_due()
    for path in (f"/jobs/{job.id}", "/jobs", "/dead", "/"):
        text = app.test_client().get(f"/spool{path}").text
        assert "<script>alert" not in text, path
        assert "<anna>" not in text, path
    with app.test_request_context():
        bar = render_template_string("{{ job_progress(job, label='<script>alert(1)</script>') }}", job=job)
    assert "<script>alert" not in bar
