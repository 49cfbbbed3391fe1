"""Changes that a task makes to its process are undone before the next job, or the process is replaced."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from any_server import CommandServer
from uwsgi_server import UwsgiServer, wait_until

from .conftest import SITE

sys.path.insert(0, str(SITE))
try:
    import leftovers_app
finally:
    sys.path.remove(str(SITE))


class Site:
    """A server with one spooler, so that one process runs all jobs."""

    def __init__(self, server: UwsgiServer, own_files: Path) -> None:
        self.server = server
        self.own_files = own_files

    def run(self, task: str, what: str) -> dict[str, Any]:
        answer = self.server.get(f"/run/{task}/{quote(what)}")
        assert answer.status == 200, (answer.text, self.server.log()[-3000:])
        ran: dict[str, Any] = answer.json
        return ran

    def look(self, how: str = "-") -> Any:
        return self.run("look", how)["result"]

    def written_over(self) -> list[str]:
        """The task's own files into which other code has written."""
        return [file.name for file in self.own_files.iterdir() if file.read_text() not in ("", "said by the task\n")]

    def pid(self) -> int:
        return int(self.run("pid", "-")["result"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("leftovers")
    own_files = folder / "own"
    own_files.mkdir()
    options = [
        "master = true",
        "enable-threads = true",
        "need-app = true",
        "processes = 1",
        "threads = 2",
        "max-fd = 256",
        f"pythonpath = {SITE}",
        f"chdir = {SITE}",
        "module = leftovers_app:app",
        "spooler-processes = 1",
        "spooler-frequency = 1",
        f"spooler = {folder / 'spool'}",
    ]
    env = {"PYTHONPATH": str(SITE), "OWN_FILES": str(own_files), "TZ": "Europe/Berlin"}
    with UwsgiServer(folder, options=options, env=env) as server:
        yield Site(server, own_files)


@pytest.fixture(scope="module")
def flask_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same without uWSGI: ``flask run``, with ``flask spool run`` beside it."""
    folder = tmp_path_factory.mktemp("leftovers-flask")
    own_files = folder / "own"
    own_files.mkdir()
    env = {"PYTHONPATH": str(SITE), "OWN_FILES": str(own_files), "TZ": "Europe/Berlin"}
    command = ["flask", "--app", "leftovers_app", "run", "--port", "{port}"]
    with CommandServer(folder, command, probe="/run/pid/-", env=env, spool=folder / "spool") as server:
        yield Site(server, own_files)


@pytest.fixture(scope="module")
def fresh(site: Site) -> Any:
    """The state of the process before the first job."""
    return site.look()


@pytest.mark.parametrize("what", leftovers_app.PUT_BACK)
def test_the_next_job_finds_its_process_in_the_state_before_the_first_one(site: Site, fresh: Any, what: str) -> None:
    before = site.pid()
    assert site.run("leave", what)["state"] == "done"
    assert site.look("slowly" if "alarm" in what or what == "faulthandler" else "-") == fresh
    assert site.run("leave_and_fail", what)["state"] == "dead"
    assert site.look() == fresh
    assert site.pid() == before


@pytest.mark.parametrize("what", leftovers_app.REPLACED)
def test_a_process_that_cannot_be_restored_is_replaced_after_the_job(site: Site, fresh: Any, what: str) -> None:
    before = site.pid()
    assert site.run("leave", what)["state"] == "done"
    wait_until(lambda: site.pid() != before)
    assert site.look() == fresh
    assert site.written_over() == []


@pytest.mark.parametrize("what", ["handlers", "environment", "umask", "no descriptors"])
def test_the_process_is_restored_after_a_job_of_another_library(site: Site, fresh: Any, what: str) -> None:
    before = site.pid()
    assert site.server.get(f"/stock/{quote(what)}").status == 200
    site.server.wait_for_log(f"the stock job left {what}")
    # Until the process is restored: a call before that wakes the spooler by SIGUSR1, which "handlers" made deadly.
    wait_until(lambda: not list(site.server.spool.glob("uwsgi_spoolfile_on_*")))
    assert site.look() == fresh
    assert (site.pid() == before) == (what in leftovers_app.PUT_BACK)


@pytest.mark.parametrize(
    "what", ["deadly alarm", "handlers", "signal mask", "environment", "standard descriptors", "wakeup descriptor"]
)
def test_flask_spool_run_restores_the_process_after_a_job(flask_site: Site, what: str) -> None:
    before, fresh = flask_site.pid(), flask_site.look()
    assert flask_site.run("leave", what)["state"] == "done"
    assert flask_site.look("slowly" if "alarm" in what else "-") == fresh
    assert flask_site.run("leave_and_fail", what)["state"] == "dead"
    assert flask_site.look() == fresh
    assert flask_site.pid() == before


@pytest.mark.parametrize("what", ["own files", "dead streams"])
def test_flask_spool_run_replaces_a_process_that_cannot_be_restored(flask_site: Site, what: str) -> None:
    before, fresh = flask_site.pid(), flask_site.look()
    assert flask_site.run("leave", what)["state"] == "done"
    assert flask_site.pid() != before
    assert flask_site.look() == fresh
    assert not [
        file.name for file in flask_site.own_files.iterdir() if file.read_text() not in ("", "said by the task\n")
    ]


def test_each_job_has_a_line_at_its_start_and_one_at_its_end(site: Site) -> None:
    done, dead = site.run("pid", "-")["id"], site.run("leave_and_fail", "nothing")["id"]
    took = r"\(attempt 1 of 1, \d\.\d{3} s\)"
    site.server.wait_for_log(f"INFO spoolkit: job {done} of leftovers_app.pid is done {took}")
    site.server.wait_for_log(
        f"ERROR spoolkit: job {dead} of leftovers_app.leave_and_fail is dead: ValueError: the task's own trouble {took}"
    )
    lines = [line for line in site.server.log().splitlines() if " spoolkit: job " in line]
    for id, end in ((done, "is done"), (dead, "is dead")):
        first, last = (line for line in lines if id in line)
        assert "starts: attempt 1 of 1" in first
        assert end in last


def test_the_log_says_why_a_process_is_replaced(site: Site) -> None:
    before = site.pid()
    id = site.run("leave", "session")["id"]
    why = f"because job {id} of leftovers_app.leave left it unfit for another job: process group or session changed"
    site.server.wait_for_log(f"process {before} is replaced {why}")
