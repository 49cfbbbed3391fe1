"""Many jobs of one call on a real uWSGI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from uwsgi_server import wait_until

from spoolkit import Job, SpoolKit, State
from spoolkit.spooldir import chunks, gate

from .conftest import StartSite


@pytest.fixture
def look(tmp_path: Path) -> Iterator[None]:
    """This process looks at the jobs of the site."""
    app = Flask("onlooker")
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    with app.app_context():
        yield


def test_all_spoolers_run_the_jobs_of_a_chunk_at_once(start_site: StartSite) -> None:
    """Although one of them makes their files, and uWSGI would scan again in ten minutes only."""
    site = start_site(spoolers=4, frequency=600)
    site.server.wait_for_spoolers()
    site.call("holds", rows=[[str(number)] for number in range(100)])
    # None of them ends yet.
    starts = site.history.wait_for("start", count=4)
    assert len({event.pid for event in starts}) == 4
    Path(f"{site.history.path}.release").touch()
    ends = site.history.wait_for("end", count=100)
    assert len({event.words for event in ends}) == 100
    site.wait_empty()


def test_the_jobs_of_a_chunk_run_when_they_are_due(start_site: StartSite) -> None:
    # So rarely that a scan cannot be what finds them.
    site = start_site(spoolers=2, frequency=600)
    answer = site.call("note", rows=[[str(number)] for number in range(6)], using={"spread": 3})
    for event in site.history.wait_for("note", count=6):
        assert event.time >= answer["run_at"][int(event.words[1])], "early"
    site.wait_empty()


def test_a_chunk_with_a_priority_is_run_before_jobs_without_one(start_site: StartSite, look: None) -> None:
    site = start_site("spooler-ordered = true")
    gate.pause(str(site.spool))
    jobs = [site.call("note", "last")["job"]]
    jobs += site.call("note", rows=[["first"], ["second"]], using={"priority": 5})["jobs"]
    assert [Job.get(id).state for id in jobs] == [State.QUEUED] * 3
    gate.resume(str(site.spool))
    # The spooler that stands by has already chosen the job without a priority; so only the order of the others counts.
    notes = site.history.wait_for("note", count=3)
    assert [event.words[1] for event in notes if event.words[1] != "last"] == ["first", "second"]
    site.wait_empty()


def test_in_a_paused_queue_a_job_of_a_chunk_is_found_and_cancelled(start_site: StartSite, look: None) -> None:
    site = start_site(spoolers=2)
    spool = str(site.spool)
    gate.pause(spool)
    ids = site.call("note", rows=[[str(number)] for number in range(10)])["jobs"]
    assert Job.get(ids[4]).state is State.QUEUED
    assert site.history.events() == []
    wait_until(lambda: chunks.find(spool, ids[4]) is not None)
    assert Job.get(ids[4]).cancel() is State.CANCELLED
    gate.resume(spool)
    notes = site.history.wait_for("note", count=9)
    site.wait_empty()
    assert sorted(event.words[1] for event in notes) == [str(number) for number in range(10) if number != 4]
    assert Job.get(ids[4]).state is State.CANCELLED
    # The folder of a chunk goes after its file.
    wait_until(lambda: os.listdir(site.spool / chunks.FOLDER) == [])
