"""Dead jobs in groups: by task, error and place, also those of other libraries, and what is done to a group."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_site import Site, make_app, run_due, spool_dir
from flask import Flask

from spoolkit import spool
from spoolkit.admin import dead_groups, lookup
from spoolkit.dashboard import ALL_RIGHTS, READ_ONLY
from spoolkit.errors import UnknownJobError
from spoolkit.job import State
from spoolkit.spooldir import dead
from spoolkit.store import locations
from spoolkit.system import clock


@spool(retries=0)
def breaks(text: str, password: str = "") -> None:
    if text.startswith("key"):
        raise KeyError(text)
    if text.startswith("says"):
        raise ValueError(f"{text} {password}")
    json.loads(text)


@pytest.fixture(scope="module")
def app() -> Flask:
    return make_app()


@pytest.fixture
def site(app: Flask, tmp_path: Path) -> Iterator[Site]:
    made = Site(app, tmp_path)
    with app.app_context():
        yield made


def die(*texts: str) -> list[str]:
    ids = [breaks(text).id for text in texts]
    run_due()
    return ids


def foreign(name: str, reason: str = "nobody knows it") -> None:
    Path(spool_dir(), name).write_bytes(b"\x11\x00\x00\x00")
    dead.quarantine(os.path.join(spool_dir(), name), spool_dir(), reason=reason)


def test_jobs_are_grouped_by_error_and_by_the_last_own_line(site: Site) -> None:
    die("{", "[", "key1", "key2", "says x")
    found = dead_groups.find()
    sizes = {(group.error, len(group.jobs), group.frame and group.frame.code) for group in found.groups}
    assert sizes == {
        ("JSONDecodeError", 2, "json.loads(text)"),
        ("KeyError", 2, "raise KeyError(text)"),
        ("ValueError", 1, 'raise ValueError(f"{text} {password}")'),
    }
    assert (found.total, found.complete) == (5, True)


def test_a_group_keeps_its_jobs_newest_death_first(site: Site) -> None:
    ids = [*die("key1"), *die("key2"), *die("key3")]
    (group,) = dead_groups.find().groups
    assert [job.id for job in group.jobs] == ids[::-1]
    assert (group.newest.id, group.first.id) == (ids[2], ids[0])
    text = site.page(f"/dead/{group.key}")
    assert re.findall(r'<tr id="job-(\w+)"', text) == ids[::-1]
    assert re.findall(r'<tr id="job-(\w+)"', site.page(f"/dead/{group.key}?before={ids[1]}")) == ids[:1]


def test_files_without_a_record_are_never_missing(site: Site) -> None:
    (unrecorded,) = die("{")
    with locations.store().transaction() as db:
        db.execute("DELETE FROM jobs")
        db.execute("DELETE FROM events")
    foreign("uwsgi_spoolfile_on_other_1_2_3_4")
    foreign("<b>markup")
    Path(spool_dir(), "dead", "without a report").write_bytes(b"")
    ids = {job.id for group in dead_groups.find().groups for job in group.jobs}
    assert ids == {unrecorded, "uwsgi_spoolfile_on_other_1_2_3_4", "<b>markup", "without a report"}
    groups = {group.error: group for group in dead_groups.find().groups}
    assert groups["JSONDecodeError"].newest.id == unrecorded
    assert "<b>" not in site.page("/dead")
    for group in groups.values():
        assert "<b>" not in site.page(f"/dead/{group.key}")


def test_a_name_that_is_not_utf8_does_not_break_the_page(site: Site) -> None:
    die("{")
    with open(os.path.join(os.fsencode(spool_dir()), b"dead", b"caf\xe9"), "wb"):
        pass
    text = site.page("/dead")
    for key in re.findall(r"/spool/dead/(\w+)", text):
        site.page(f"/dead/{key}")


def test_a_job_that_was_moved_back_is_in_no_group(site: Site) -> None:
    (id,) = die("{")
    path = dead.locate(spool_dir(), id)
    assert path is not None
    os.rename(path, os.path.join(spool_dir(), os.path.basename(path)))
    assert dead_groups.find().groups == []
    assert "No job is dead." in site.page("/dead")


def test_a_bound_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = die("{", "[", "key1")
    monkeypatch.setattr(dead_groups, "MAX_EXAMINED", 2)
    found = dead_groups.find()
    assert (found.total, found.complete) == (3, False)
    assert sum(len(group.jobs) for group in found.groups) == 2
    text = site.page("/dead")
    assert "The newest 2 of 3 dead jobs are grouped here." in text
    assert ids[0] not in text


def test_a_group_is_retried_after_a_question_with_its_number(site: Site) -> None:
    ids = die("key1", "key2", "{")
    group = next(group for group in dead_groups.find().groups if group.error == "KeyError")
    assert f'action="/spool/dead/{group.key}/retry"' in site.page("/dead")
    page = site.page(f"/dead/{group.key}")
    until = re.search(r'name="until" value="([^"]*)"', page)
    assert until is not None
    assert "Retry 2 jobs…" in page
    late = die("key3")
    question = site.post(f"/dead/{group.key}/retry", until=until[1]).text
    assert "Retry 2 jobs" in question
    assert '<a href="/spool/dead">Back</a>' in question
    assert lookup.find(ids[0]).state is State.DEAD
    done = site.post(f"/dead/{group.key}/retry", until=until[1], confirmed="yes").text
    assert "2 jobs retried" in done
    states = [lookup.find(id).state for id in (*ids, *late)]
    assert states == [State.QUEUED, State.QUEUED, State.DEAD, State.DEAD]
    assert [(event.kind, event.by) for event in lookup.details(ids[0]).events] == [("retried", "anna")]


def test_a_group_is_purged_with_files_of_other_libraries(site: Site) -> None:
    die("key1")
    foreign("of another library")
    for group in dead_groups.find().groups:
        assert "1 job deleted" in site.post(f"/dead/{group.key}/purge", confirmed="yes").text
    assert dead_groups.find().groups == []
    assert os.listdir(os.path.join(spool_dir(), "dead")) == []


def test_the_rights_are_asked_for(site: Site) -> None:
    (id,) = die("key1")
    (group,) = dead_groups.find().groups
    for rights in (READ_ONLY, ALL_RIGHTS - {"retry", "purge"}):
        site.visit(*rights)
        assert "<button class" not in site.page(f"/dead/{group.key}")
        for verb in ("retry", "purge"):
            assert site.post(f"/dead/{group.key}/{verb}", confirmed="yes").status_code == 403
    assert lookup.find(id).state is State.DEAD


def test_a_secret_argument_is_not_in_the_message_of_a_group(site: Site) -> None:
    breaks("says", "sesame-open")
    run_due()
    (group,) = dead_groups.find().groups
    assert "sesame-open" not in site.page("/dead")
    text = site.page(f"/dead/{group.key}")
    assert "says [redacted]" in text


def test_a_group_that_is_gone_is_a_404(site: Site) -> None:
    assert "no dead job is in this group" in site.page("/dead/0123456789abcdef", 404)
    with pytest.raises(UnknownJobError):
        dead_groups.find(clock.now() - 3600).group("x")
    (group_id,) = die("key1")
    (group,) = dead_groups.find().groups
    answer = site.post(f"/dead/{group.key}/retry", until="soon")
    assert (answer.status_code, "until is" in answer.text) == (400, True)
    assert lookup.find(group_id).state is State.DEAD


def test_the_command_lists_the_same_groups(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = site.app.test_cli_runner()
    breaks.using(delay=3600)("later")
    assert "no job is dead" in runner.invoke(args=["spool", "dead"]).output
    ids = die("key1", "key2", "{")
    output = runner.invoke(args=["spool", "dead"]).output.splitlines()
    assert output[1].split()[:3] == ["2", f"{__name__}.breaks", "KeyError"]
    assert output[1].endswith(ids[1])
    groups = json.loads(runner.invoke(args=["spool", "dead", "--json"]).output)["groups"]
    assert [group["jobs"] for group in groups] == [[ids[1], ids[0]], [ids[2]]]
    assert groups[0]["frame"]["function"] == "breaks"
    monkeypatch.setattr(dead_groups, "MAX_EXAMINED", 1)
    assert "only the newest 1 of 3 dead jobs" in runner.invoke(args=["spool", "dead"]).output
