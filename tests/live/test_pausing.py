"""Pausing and draining by hand, the printed uwsgi.ini, and two uWSGI servers on one directory."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from sampling import sampled
from uwsgi_server import UwsgiServer, wait_until

from spoolkit import SpoolKit
from spoolkit.admin import actions
from spoolkit.coordination import pauses
from spoolkit.doctor.examine import examine
from spoolkit.spooldir import parked, spoolers
from spoolkit.store import locations

from .conftest import History, Site, StartSite
from .draining import Deployed, deployed

Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """``flask spool`` of an application with the same spool directory."""
    app = Flask("operator", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)

    def run(*words: str) -> Result:
        return app.test_cli_runner().invoke(args=["spool", *words])

    return run


def stands_by(site: Deployed) -> None:
    """Wait until every spooler has found a job and has not started it."""
    spool = str(site.site.spool)

    def all_do() -> bool:
        spoolers.wake_all(spool)
        return all(f"pid {pid} starts no job of {spool}" in site.jobs.log() for pid in site.jobs.spooler_pids())

    wait_until(all_do, message=site.jobs.log)
    wait_until(lambda: not spoolers.busy([spool]))


@pytest.mark.parametrize("mode", sampled(["prefork", "lazy-apps"], "lazy-apps"))
def test_while_it_is_paused_what_runs_goes_on_and_nothing_starts(tmp_path: Path, command: Command, mode: str) -> None:
    with deployed(tmp_path, mode) as site:
        running = site.call("work", 1.0)
        site.site.history.wait_for("start", running)
        assert command("pause").output == f"{site.site.spool} is paused\n"
        waiting = [site.call("work", 0.0) for _ in range(4)]
        site.site.history.wait_for("end", running)
        stands_by(site)
        assert [site.starts(id) for id in waiting] == [0] * 4
        cancelled = waiting.pop()
        app = Flask("operator", root_path=str(tmp_path))
        app.config["SPOOLKIT_SPOOL"] = site.site.spool
        SpoolKit(app)
        with app.app_context():
            assert actions.cancel(cancelled) == "cancelled"
            (finding,) = [
                one for one in examine(str(site.site.spool), store=locations.store().path) if one.check == "paused"
            ]
            locations.store().close()
        assert "flask spool resume" in finding.remedy
        assert json.loads(command("stats", "--json").output)["paused"] == {str(site.site.spool): "paused"}
    with deployed(tmp_path, mode) as site:
        site.wait_until_up()
        stands_by(site)
        assert [site.starts(id) for id in waiting] == [0] * 3, "it survives restarts"
        assert command("resume", "spool").exit_code == 0
        for id in waiting:
            site.site.history.wait_for("end", id)
        assert site.starts(cancelled) == 0


def test_draining_waits_for_what_runs_and_ends_with_the_next_start(tmp_path: Path, command: Command) -> None:
    with deployed(tmp_path, "lazy-apps") as site:
        site.wait_until_up()
        running = site.call("holds")
        site.site.history.wait_for("start", running)
        over = command("drain", "--wait", "--timeout", "0.3s")
        assert over.exit_code == 1
        assert "still run after 0.3 s" in over.output
        assert not site.site.history.events("end", running)
        waiting = site.call("work", 0.0)
        # Most of the time, the job goes on for a while beside the command.
        release = threading.Timer(0.3, site.release)
        release.start()
        done = command("drain", "--wait")
        assert (done.exit_code, done.output) == (0, f"{site.site.spool} is drained\n")
        assert site.site.history.events("end", running)
        stands_by(site)
        assert site.starts(waiting) == 0
        site.signal(signal.SIGHUP)
        site.jobs.wait_for_log("chain reloading complete")
        stands_by(site)
        assert site.starts(waiting) == 0, "a reload is no start"
    with deployed(tmp_path, "lazy-apps") as site:
        site.site.history.wait_for("end", waiting)


def test_draining_does_not_turn_a_pause_into_less(tmp_path: Path, command: Command) -> None:
    (tmp_path / "spool").mkdir(exist_ok=True)
    command("pause")
    assert command("drain").output == f"{tmp_path}/spool is paused\n"


def test_an_unknown_queue_is_refused(tmp_path: Path, command: Command) -> None:
    (tmp_path / "spool").mkdir(exist_ok=True)
    refused = command("pause", "nowhere")
    assert refused.exit_code == 2
    assert f"one of default, or a spool directory such as {tmp_path}/spool" in refused.output


def test_the_ini_that_is_printed_runs_and_satisfies_the_doctor(tmp_path: Path, command: Command) -> None:
    with deployed(tmp_path, "lazy-apps") as site:
        env = {"HISTORY": str(site.site.history.path), "PYTHONPATH": str(tmp_path / "code")}
    own = tmp_path / "printed"
    own.mkdir()
    server = UwsgiServer(own, options=[], env=env, spool=tmp_path / "spool")
    asked = ["ini", "--processes", "3", "--spoolers", "4", "--threads", "2", "--module", "drain_site:app"]
    printed = command(*asked, "--socket", f"127.0.0.1:{server.port}").output
    (own / "uwsgi.ini").write_text(printed)
    with server:
        site = Site(server, History(tmp_path / "history"))
        id = site.call("work", 0.0)["job"]
        site.history.wait_for("end", id)
        assert (len(server.worker_pids()), len(server.spooler_pids())) == (3, 4)
        for ini in (None, str(own / "uwsgi.ini")):
            found = examine(str(site.spool), store=str(site.spool / "spoolkit.db"), ini=ini)
            assert [one for one in found if one.severity == "error" or one.check in ("stop", "reload")] == []


def test_the_doctor_names_the_lines_that_are_missing(tmp_path: Path) -> None:
    with deployed(tmp_path, "prefork") as site:
        site.wait_until_up()
        ini = str(site.jobs.directory / "uwsgi.ini")
        for given in (None, ini):
            found = {one.check: one for one in examine(str(site.site.spool), store="", ini=given)}
            assert "stop" not in found
            assert "lazy = true\n" in found["reload"].remedy
    text = Path(ini).read_text().replace("hook-accepting = unix_signal:2 worker_wakeup\n", "")
    Path(ini).write_text(text)
    found = {one.check: one for one in examine(str(site.site.spool), store="", ini=ini)}
    assert found["stop"].remedy == "hook-accepting = unix_signal:2 worker_wakeup"


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("processes = 1", "processes = 2"),
        ("skip-atexit = true", "; skip-atexit  (remove this line)"),
        ("idle = 60", "; idle  (remove this line)"),
    ],
)
def test_the_doctor_knows_what_keeps_a_stop_from_waiting(
    tmp_path: Path, command: Command, line: str, remedy: str
) -> None:
    (tmp_path / "spool").mkdir(exist_ok=True)
    ini = tmp_path / "uwsgi.ini"
    ini.write_text(command("ini", "--module", "operator:app").output + f"{line}\n")
    found = examine(str(tmp_path / "spool"), store="", ini=str(ini))
    assert [one.remedy for one in found if one.check == "stop"] == [remedy]


def test_the_doctor_sees_a_guard_that_finds_no_application(tmp_path: Path, command: Command) -> None:
    (tmp_path / "spool").mkdir(exist_ok=True)
    ini = tmp_path / "uwsgi.ini"
    printed = command("ini", "--module", "operator:app").output
    ini.write_text(printed.replace("module = operator:app", "paste = site.ini"))
    found = examine(str(tmp_path / "spool"), store="", ini=str(ini))
    assert [one.remedy for one in found if one.check == "spooler-import"] == ["module = app:app"]


def test_two_instances_wake_and_outlive_each_other(tmp_path: Path) -> None:
    # Without a signal a job would wait for the next scan: longer than any deadline here.
    with deployed(tmp_path, "two instances", frequency=600) as site:
        site.wait_until_up()
        site.site.history.wait_for("end", site.call("work", 0.0))
        running = site.call("holds")
        site.site.history.wait_for("start", running)
        before = site.jobs.spooler_pids()
        os.kill(site.web.master_pid, signal.SIGTERM)
        wait_until(lambda: site.web.exited, message=site.web.log)
        assert not site.site.history.events("end", running), "web stops without waiting for jobs of others"
        site.release()
        site.site.history.wait_for("end", running)
        assert site.starts(running) == 1
        assert site.jobs.spooler_pids() == before


def test_the_web_instance_goes_on_while_the_other_restarts(tmp_path: Path) -> None:
    with deployed(tmp_path, "two instances", grace=20) as site:
        site.wait_until_up()
        running = site.call("work", 1.0)
        site.site.history.wait_for("start", running)
        workers = site.web.worker_pids()
        site.signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while not site.jobs.exited:
            assert time.monotonic() < deadline
            assert site.web.get("/version").status == 200
        waiting = site.call("work", 0.0)
        assert site.endings(running) == ["done"]
        assert site.starts(waiting) == 0
        with site.jobs:
            site.site.history.wait_for("end", waiting)
        assert site.web.worker_pids() == workers


@pytest.mark.matrix
def test_jobs_of_a_paused_task_wait_apart_until_it_is_resumed(start_site: StartSite) -> None:
    site, task = start_site(spoolers=2), "site_tasks.note"
    spool = os.path.realpath(site.spool)
    pauses.pause(spool, task)
    for word in range(5):
        site.call("note", str(word))
    site.call("work", "other", 0.0)
    site.history.wait_for("end", "other")
    wait_until(lambda: len(parked.paths_of(spool, pauses.group(task))) == 5, message=site.server.log)
    assert site.history.events("note") == []
    pauses.resume(spool, task)
    for word in range(5):
        site.history.wait_for("note", str(word))
    site.wait_empty()
