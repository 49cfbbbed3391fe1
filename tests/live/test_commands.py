"""``flask spool`` beside the application at the top of the repository, in its uWSGI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from uwsgi_server import UwsgiServer, wait_until

from .conftest import PROJECT, StartSite


@pytest.fixture
def application(tmp_path: Path) -> Iterator[UwsgiServer]:
    with UwsgiServer(tmp_path, ini=PROJECT / "uwsgi.ini") as server:
        yield server.wait_for_spoolers()


def flask_spool(spool: Path, *words: str, folder: Path = PROJECT, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "flask", "spool", *words],
        cwd=folder,
        env={**os.environ, "SPOOLKIT_SPOOL": str(spool)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def ask(server: UwsgiServer, *words: str) -> Any:
    return json.loads(flask_spool(server.spool, *words, "--json"))


def test_the_doctor_finds_nothing_wrong_with_the_application_as_it_comes(application: UwsgiServer) -> None:
    assert flask_spool(application.spool, "doctor") == f"no problems found in {application.spool}\n"


def test_the_doctor_sees_the_options_of_the_uwsgi_that_runs(start_site: StartSite) -> None:
    site = start_site(frequency=30)
    output = flask_spool(site.spool, "doctor", code=1)
    assert f"[spooler-frequency] the running uWSGI (pid {site.server.master_pid}): spooler-frequency is 30:" in output
    assert "[spooler-alive]" not in output


def test_a_running_job_is_killed_and_not_run_again(application: UwsgiServer) -> None:
    id = application.get("/uwsgi_spool/600").json["job"]
    wait_until(lambda: application.get(f"/jobs/{id}").json["progress"])
    assert ask(application, "cancel", "--force", id) == [{"id": id, "state": "cancelled"}]
    assert ask(application, "ls", "--state", "running,queued,retrying") == []
    after = application.get("/uwsgi_spool/1").json["job"]
    wait_until(lambda: application.get(f"/jobs/{after}").json["state"] == "done")
    shown = ask(application, "show", id)
    assert (shown["state"], shown["attempt"]) == ("cancelled", 1)
    (attempt,) = shown["attempts"]
    assert attempt["outcome"] == "cancelled"
    assert "Working in uwsgi spool... 1/600" in attempt["log"]


def test_a_delayed_job_is_made_to_run_now(application: UwsgiServer) -> None:
    id = application.get("/uwsgi_spool/1?delay=3000").json["job"]
    assert ask(application, "stats")["oldest_due"] is None
    assert ask(application, "run-now", id) == [{"id": id, "state": "queued"}]
    wait_until(lambda: application.get(f"/jobs/{id}").json["state"] == "done")
    assert ask(application, "stats")["done_last_hour"] == 1


def test_jobs_of_another_directory_that_uwsgi_serves_are_seen(start_site: StartSite, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    site = start_site(f"spooler = {other}")
    id = site.call("note", "elsewhere", using={"queue": str(other), "delay": 3000})["job"]
    assert json.loads(flask_spool(site.spool, "ls", "--json"))[0]["id"] == id
    flask_spool(site.spool, "run-now", id)
    site.history.wait_for("note", "elsewhere")
