"""The pages of schedules, queues, tasks and the doctor: what they show, to whom, and what their actions do."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from spoolkit import SpoolKit, application, periodic, registry, spool, thread
from spoolkit.admin import actions, lookup
from spoolkit.dashboard import ALL_RIGHTS, READ_ONLY, Access, dashboard_blueprint
from spoolkit.doctor import examine
from spoolkit.job import State
from spoolkit.schedules import control, ticks
from spoolkit.spooldir import gate
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import files

HOSTILE = "<script>alert(1)</script>\x1b[31mred"
SAME = {"Sec-Fetch-Site": "same-origin"}


@spool(retries=0)
def breaks(word: str, password: str = "") -> None:
    raise ValueError(word)


@spool
def works(word: str = "") -> None:
    pass


@thread
def in_thread(word: str) -> None:
    pass


class Site:
    """An application with the page under /spool, and a queue besides the default one."""

    def __init__(self, tmp_path: Path) -> None:
        self.access = Access("anna", ALL_RIGHTS)
        self.app = Flask("the_application", root_path=str(tmp_path))
        self.app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_QUEUES={"mail": {}})
        SpoolKit(self.app)
        self.app.register_blueprint(dashboard_blueprint(lambda request: self.access), url_prefix="/spool")
        self.client: FlaskClient = self.app.test_client()

    def page(self, path: str) -> str:
        answer = self.client.get(f"/spool{path}")
        assert answer.status_code == 200, answer.text
        return html.unescape(re.sub(r"<[^>]*>", " ", answer.text))

    def act(self, path: str, status: int = 303, **fields: str) -> str:
        answer = self.client.post(f"/spool{path}", headers=SAME, data=fields)
        assert answer.status_code == status, answer.text
        return answer.text

    def forms(self, path: str) -> list[str]:
        text = self.client.get(f"/spool{path}").text
        return [html.unescape(one) for one in re.findall(r'<form method="post" action="/spool([^"]*)"', text)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with made.app.app_context():
        yield made


@pytest.fixture
def nightly(site: Site) -> Iterator[str]:
    """A schedule that a process which serves has added."""
    name = "nightly <b>"
    periodic(cron="0 3 * * *", tz="Europe/Berlin", name=name, args=("a-word",), kwargs={"password": "sesame-open"})(
        breaks
    )
    try:
        files.make_spool_directory(application.settings().spool)
        ticks.reconcile(application.settings().spool)
        yield name
    finally:
        registry.this_process.schedules.pop(name)


# Schedules


def test_a_schedule_is_shown_with_its_zone_its_call_and_its_next_runs(site: Site, nightly: str) -> None:
    text = " ".join(site.page("/periodic").split())
    assert nightly in text
    assert "At 03:00" in text
    assert "Europe/Berlin ( 0 3 * * * )" in text
    assert "('a-word', password=[redacted])" in text
    assert "sesame-open" not in text
    assert len(re.findall(r"\d{4}-\d\d-\d\d 03:00:00 CES?T", text)) == control.RUNS
    assert "none that is recorded" in text
    written = site.client.get("/spool/periodic").text
    assert f'<a href="/spool/jobs?q=task:{breaks.name}">' in written, "the runs by hand are there"


def test_a_run_that_is_over_is_a_link_to_its_job(site: Site, nightly: str) -> None:
    (tick,) = (one for one in lookup.jobs(states=[State.QUEUED]))
    actions.run_now(tick.id)
    Spooler(application.settings().spool).run_due()
    text = site.client.get("/spool/periodic").text
    assert f'href="/spool/jobs/{tick.id}"' in text
    assert "dead" in site.page("/periodic")


def test_who_may_not_see_arguments_does_not_see_those_of_a_schedule(site: Site, nightly: str) -> None:
    site.access = Access("eve", READ_ONLY)
    assert "a-word" not in site.page("/periodic")
    assert site.forms("/periodic") == []


def test_a_schedule_is_run_now_paused_and_resumed(site: Site, nightly: str, caplog: pytest.LogCaptureFixture) -> None:
    run, pause = site.forms("/periodic")
    with caplog.at_level(logging.INFO, "spoolkit"):
        before = {job.id for job in lookup.jobs()}
        site.act(run)
        (job,) = (job for job in lookup.jobs() if job.id not in before)
        assert (job.task, job.state) == (breaks.name, State.QUEUED)
        found = lookup.details(job.id)
        assert found.arguments == (("a-word",), {"password": "sesame-open"})
        assert [(event.kind, event.by) for event in found.events] == [("run besides its schedule", "anna")]
        site.act(pause)
        assert control.known()[0].paused
        assert "none while it is paused" in site.page("/periodic")
        _, resume = site.forms("/periodic")
        site.act(resume)
    assert not control.known()[0].paused
    lines = [record.getMessage() for record in caplog.records if "on the dashboard" in record.getMessage()]
    assert [line.split(":", 1)[0] for line in lines] == ["anna, on the dashboard"] * 3
    assert "sesame" not in caplog.text


def test_an_unknown_schedule_is_a_404_that_names_those_there_are(site: Site, nightly: str) -> None:
    assert "nightly" in site.act("/periodic/pause", 404, name="nightli")
    site.act("/periodic/run", 404)
    for action in ("run", "pause", "resume"):
        site.act(f"/periodic/{action}", 404, name="x" * 10_000)


def test_without_schedules_the_page_says_how_to_write_one(site: Site) -> None:
    assert "No task is periodic" in site.page("/periodic")


# Queues


def test_each_queue_has_its_figures_and_its_actions(site: Site) -> None:
    works()
    works.using(queue="mail")()
    text = " ".join(site.page("/queues").split())
    assert "2 queues" in text
    assert re.search(r"default open 1 .* 1 0 of 0", text)
    assert re.search(r"mail open 1 .* 1 0 of 0", text)
    assert len(site.forms("/queues")) == 4
    site.access = Access("eve", READ_ONLY)
    assert site.forms("/queues") == []


def test_a_queue_is_paused_drained_and_resumed(site: Site) -> None:
    works.using(queue="mail")()
    spool_dir = locations.queue_dirs()["mail"]
    site.act("/queues/pause", queue="mail")
    assert (gate.state(spool_dir), gate.state(application.settings().spool)) == ("paused", None)
    assert "paused" in site.page("/queues")
    site.act("/queues/resume", queue="mail")
    assert gate.state(spool_dir) is None
    question = site.act("/queues/drain", 200, queue="mail")
    assert "Drain the queue mail?" in question
    assert '<a href="/spool/queues">Back</a>' in question
    assert gate.state(spool_dir) is None, "it was not confirmed"
    site.act("/queues/drain", queue="mail", confirmed="yes")
    assert gate.state(spool_dir) == "drained"
    assert "until the site starts again" in " ".join(site.page("/queues").split())


def test_the_path_of_a_queue_is_text(tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[31m<b>\u202e"
    folder.mkdir()
    text = Site(folder).client.get("/spool/queues").text
    assert "/&lt;b&gt;\\u202e/spool" in text
    assert not {"\x1b", "\u202e"} & set(text)


@pytest.mark.parametrize("queue", ["", "unknown", "/etc", "../spool", HOSTILE])
def test_what_is_no_queue_is_a_404(site: Site, queue: str) -> None:
    works()
    for verb in ("pause", "drain", "resume"):
        text = site.act(f"/queues/{verb}", 404, queue=queue, confirmed="yes")
        assert "is no queue: give one of default, mail" in text
        assert "<script>alert" not in text


# Tasks


def test_each_task_has_the_figures_of_the_last_hour(site: Site) -> None:
    for _ in range(3):
        works()
    breaks("no")
    Spooler(application.settings().spool).run_due()
    works()
    rows = {row[0]: row for row in map(str.split, re.split(r"test_dashboard_pages\.", site.page("/tasks"))) if row}
    assert rows["works"][1:4] == ["1", "0", "3"], "waiting, running, done"
    assert rows["breaks"][1:7] == ["0", "0", "0", "1", "100", "%"]
    assert rows["in_thread"][1] == "@thread"


def test_a_task_links_to_its_jobs(site: Site) -> None:
    works()
    text = site.client.get("/spool/tasks").text
    assert f'href="/spool/jobs?q=task:{works.name}"' in text


def test_a_task_is_paused_and_resumed(site: Site) -> None:
    works()
    (pause,) = (form for form in site.forms("/tasks") if form.endswith(f"task={works.name}"))
    site.act(pause)
    assert list(gate.paused_tasks(application.settings().spool).values()) == [works.name]
    (resume,) = (form for form in site.forms("/tasks") if form.endswith(f"task={works.name}"))
    site.act(resume)
    assert gate.paused_tasks(application.settings().spool) == {}
    site.act("/tasks/pause", 404, task="unknown")
    assert "cannot be paused" in html.unescape(site.act("/tasks/pause", 409, task=in_thread.name))


def test_a_task_with_jobs_that_the_code_does_not_declare_is_listed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    works(HOSTILE)
    Spooler(application.settings().spool).run_due()
    monkeypatch.delitem(registry.this_process.tasks, works.name)
    assert f"{works.name}   not declared here" in site.page("/tasks").replace("\n", " ")


# The doctor


def test_the_doctor_says_what_is_wrong_and_what_to_do(site: Site) -> None:
    works()
    text = site.page("/doctor")
    assert "spooler-alive" in text
    assert "flask spool run" in text
    output = site.app.test_cli_runner().invoke(args=["spool", "doctor", "--json"]).output
    assert {one["check"] for one in json.loads(output)} == set(
        re.findall(r"^ *(?:error|warning) +([a-z-]+)", text, re.M)
    )


def test_the_doctor_of_an_http_process_opens_no_file_of_another_library(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    works()
    spool_dir = Path(application.settings().spool)
    (spool_dir / "uwsgi_spoolfile_on_host_1_2_3_4_5").write_bytes(b"\x11damaged")
    opened: list[str] = []
    real = examine.directory.machine.open_regular

    def open_regular(path: str) -> object:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(examine.directory.machine, "open_regular", open_regular)
    examine.examine_application(site.app)
    assert any(path.endswith("_1_2_3_4_5") for path in opened)
    opened.clear()
    site.page("/doctor")
    assert opened
    assert not any(path.endswith("_1_2_3_4_5") for path in opened)
