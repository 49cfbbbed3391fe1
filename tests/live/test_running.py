"""A job on a real uWSGI: when it runs, in which environment, and that it runs again if it did not finish."""

from __future__ import annotations

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from any_server import wait_until_complete
from flask import Flask
from uwsgi_server import wait_until

from spoolkit import Job, SpoolKit
from spoolkit.admin.stack import stack
from spoolkit.spooldir import gate, stacks

from .conftest import SITE, Site, StartSite

LATE = 10.0
"""Seconds by which a delayed job may be late on a machine that is busy."""


def test_arguments_keep_their_types(site: Site) -> None:
    odd = {"at": 1.5, "body": "b", "id": 7, "args": [1, 2], "self": "me", "priority": "p", "spooler": "s"}
    site.call("named", kwargs=odd)
    (event,) = site.history.wait_for("named")
    assert event.words == ("named", "1.5", "b", "7", "[1,", "2]", "me", "p", "s")
    site.wait_empty()


def test_a_spool_job_runs_in_an_application_context_without_a_request(site: Site) -> None:
    job = site.call("circumstances")["job"]
    (event,) = site.history.wait_for("circumstances")
    assert event.words[1:] == ("site_app", "False", str(SITE), job)
    assert event.pid != site.server.master_pid


def test_a_thread_job_runs_in_an_application_context_without_a_request(site: Site) -> None:
    answer = site.call("in_thread", "hello")
    (event,) = site.history.wait_for("thread")
    assert event.words[1:] == ("hello", "site_app", "False", answer["job"])
    assert event.pid == answer["pid"]


def test_an_exception_of_a_thread_job_is_in_the_log(site: Site) -> None:
    site.call("thread_fails")
    site.server.wait_for_log("ValueError: the thread's own trouble")


@pytest.mark.parametrize("task", ["holds", "holds_in_thread"])
def test_a_running_job_tells_where_it_is_and_what_it_took(
    site: Site, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "TIMEOUT", 60)
    app = Flask("operator", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = site.spool
    SpoolKit(app)
    released = Path(f"{site.history.path}.release")
    with app.app_context():
        id = site.call(task, task)["job"]
        (started,) = site.history.wait_for("start", task)
        job = Job.get(id)
        found = stack(job.id)
        assert found.pid == started.pid
        assert [frame.function for frame in found.frames if frame.own][:1] == [task]
        assert site.server.get("/").status < 500, "the process that was asked goes on"
        released.touch()
        assert job.wait(60)
        released.unlink()
        (attempt,) = job.attempts
        assert attempt.cpu is not None
        assert (attempt.memory is None) == (task == "holds_in_thread")
        assert attempt.waited is not None


def test_a_delayed_job_runs_never_early_and_only_a_little_late(site: Site) -> None:
    run_at = {}
    for moment in (1.2, 1.7, 2.4):
        for option, using in (("at", {"at": time.time() + moment}), ("delay", {"delay": moment})):
            word = f"{option}-{moment}"
            run_at[word] = site.call("note", word, using=using)["run_at"]
    for word, due in run_at.items():
        (event,) = site.history.wait_for("note", word)
        assert 0 <= event.time - due <= LATE


def test_a_job_with_at_in_the_past_runs_at_once(start_site: StartSite) -> None:
    site = start_site(frequency=600)
    site.call("note", "past", using={"at": time.time() - 1000})
    site.history.wait_for("note", "past")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("returned", "SPOOL_RETRY"),
        ("ignored", "SPOOL_IGNORE"),
        ("raised", "ValueError: raised"),
        ("exit", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt"),
    ],
)
def test_a_job_that_did_not_finish_runs_again(site: Site, how: str, reason: str) -> None:
    spooler, said_before = site.server.spooler_pids(), len(site.server.log())
    site.call("flaky", how, 2)
    runs = site.history.wait_for("flaky", how, count=3)
    site.wait_empty()
    assert len(site.history.events("flaky", how)) == 3
    assert all(after.time - before.time >= 0.2 for before, after in pairwise(runs))
    assert site.server.spooler_pids() == spooler, "the task took the spooler down with it"
    wait_until(lambda: reason in site.server.log()[said_before:], message=site.server.log)


def test_a_job_that_raises_retry_with_a_delay_runs_again_after_it(site: Site) -> None:
    site.call("flaky", "asked", 1)
    first, second = site.history.wait_for("flaky", "asked", count=2)
    assert second.time - first.time >= 1.5
    site.wait_empty()


def test_integers_equal_to_spool_constants_are_results(site: Site) -> None:
    for value in (0, -1, -2, 5):
        site.call("returns", value)
    site.wait_empty()
    assert sorted(event.words[1] for event in site.history.events("returned")) == ["-1", "-2", "0", "5"]


def test_a_job_enqueued_while_all_spoolers_are_busy_starts_as_soon_as_one_is_idle(start_site: StartSite) -> None:
    # Without a signal it would wait for the next scan: longer than any deadline below.
    site = start_site(frequency=600)
    site.call("holds", "long")
    site.history.wait_for("start", "long")
    site.call("note", "after")
    Path(f"{site.history.path}.release").touch()
    site.history.wait_for("note", "after")


def test_a_job_whose_spooler_is_killed_runs_again(start_site: StartSite) -> None:
    site = start_site(spoolers=2)
    site.call("holds", "victim")
    (start,) = site.history.wait_for("start", "victim")
    os.kill(start.pid, signal.SIGKILL)
    again = site.history.wait_for("start", "victim", count=2)[1]
    Path(f"{site.history.path}.release").touch()
    (end,) = site.history.wait_for("end", "victim")
    assert again.pid == end.pid != start.pid
    site.wait_empty()


def test_jobs_accepted_while_uwsgi_is_killed_run_after_the_next_start(start_site: StartSite) -> None:
    site = start_site()
    site.call("work", "cut", 30)
    site.history.wait_for("start", "cut")
    for word in ("one", "two"):
        site.call("note", word)
    site.server.kill()
    assert len(site.files()) == 3
    back = start_site(spoolers=2)
    back.history.wait_for("note", "one")
    back.history.wait_for("note", "two")
    back.history.wait_for("start", "cut", count=2)


def test_two_hundred_jobs_from_many_threads_run_once_each(start_site: StartSite) -> None:
    site = start_site(processes=2, threads=4, spoolers=4)
    wait_until_complete("uwsgi", site.server)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: site.call("note", str(i)), range(200)))
    while len({answer["pid"] for answer in answers}) < 2:  # one of the two HTTP processes stood still
        answers.append(site.call("note", str(len(answers))))
        assert len(answers) < 10_000, "only one HTTP process took part"
    site.wait_empty()
    ran = sorted(int(event.words[1]) for event in site.history.events("note"))
    assert ran == list(range(len(answers)))
    assert len({answer["job"] for answer in answers}) == len(answers)


def test_ten_megabytes_of_arguments_arrive(site: Site) -> None:
    size = 10_000_000
    answer = site.server.post(f"/weigh/{size}")
    assert answer.status == 200, answer.text
    (event,) = site.history.wait_for("weighed")
    assert event.words[1] == str(size)


def test_arguments_over_the_limit_are_refused_and_nothing_is_written(start_site: StartSite) -> None:
    site = start_site(env={"SPOOLKIT_MAX_BODY": "100000"})
    answer = site.server.post("/weigh/200000")
    assert answer.status == 400
    assert answer.json["error"]["argument"] == "data"
    assert site.files() == []


def test_a_call_in_uwsgis_own_spelling_converts_by_annotation(site: Site) -> None:
    packet = {"duration": "NQ==", "body": "Ynl0ZXM=", "untyped": "NQ==", "at": "MTAwMA=="}  # 5, bytes, 5, 1000
    site.call("uwsgi_style", packet=packet)
    (event,) = site.history.wait_for("uwsgi_style")
    assert event.words[1:] == ("5", "b'bytes'", "b'5'")
    run_at = site.call("note", spool={"word": "later", "at": time.time() + 1.5})["run_at"]
    (event,) = site.history.wait_for("note", "later")
    assert 0 <= event.time - run_at <= LATE


def test_a_priority_without_spooler_ordered_is_refused(start_site: StartSite) -> None:
    site = start_site()
    answer = site.call("note", "urgent", using={"priority": 1}, expect=400)
    assert answer["error"]["argument"] == "priority"
    site.server.stop()
    site = start_site("spooler-ordered = true")
    site.call("note", "urgent", using={"priority": 1})
    site.history.wait_for("note", "urgent")


def test_a_job_with_a_priority_runs_with_spooler_chdir(start_site: StartSite, tmp_path: Path) -> None:
    site = start_site("spooler-ordered = true", f"spooler-chdir = {tmp_path}")
    # Where the spooler stands lies a file of the same name, which is no job of it.
    gate.pause(str(site.spool))
    job = site.call("note", "urgent", using={"priority": 1})["job"]
    name = f"uwsgi_spoolfile_on_{job}"
    shutil.copy(site.spool / "1" / name, tmp_path / name)
    gate.resume(str(site.spool))
    site.history.wait_for("note", "urgent")
    site.call("note", "plain")
    site.history.wait_for("note", "plain")
    wait_until(lambda: not os.listdir(site.spool / "1"))
    assert (tmp_path / name).exists()


def test_a_queue_that_is_not_served_is_refused(site: Site) -> None:
    answer = site.call("note", "lost", using={"queue": "/tmp"}, expect=400)
    assert answer["error"]["argument"] == "spooler"


def test_with_lazy_apps_the_spooler_imports_the_application_itself(start_site: StartSite) -> None:
    site = start_site("lazy-apps = true", "spooler-import = site_app", spoolers=2)
    job = site.call("circumstances")["job"]
    (event,) = site.history.wait_for("circumstances")
    assert event.words[1:] == ("site_app", "False", str(SITE), job)


def test_the_spool_directory_is_closed_to_other_users(start_site: StartSite, tmp_path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o755)
    site = start_site()
    # By the spoolers at their start, for which the HTTP processes do not wait.
    assert wait_until(lambda: spool.stat().st_mode & 0o777 == 0o700)
    site.call("note", "later", using={"delay": 60})
    (name,) = site.files()
    assert (spool / "later" / name).stat().st_mode & 0o777 == 0o600
