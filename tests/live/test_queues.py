"""A queue with spoolers of its own, and priorities, on a real uWSGI with the ini that `flask spool ini` prints."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from uwsgi_server import UwsgiServer, wait_until

from spoolkit.spooldir import spoolers
from spoolkit.uwsgi import recommended

from .conftest import SITE, History, Site, environment_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One spooler for normal jobs, two for mails."""
    folder = tmp_path_factory.mktemp("site")
    ini = folder / "uwsgi.ini"
    queues = [("%dspool-queues/mail", 2)]
    given = {"processes": 1, "threads": 2, "spoolers": 1, "spool": "%dspool", "pythonpath": str(SITE)}
    ini.write_text(recommended.ini(module="queues_app:app", queues=queues, priorities=True, **given))  # type: ignore[arg-type]
    server = UwsgiServer(folder, ini=ini, env=environment_in(folder), spool=folder / "spool")
    with server:
        yield Site(server, History(folder / "history"))


def release(site: Site, name: str) -> None:
    Path(f"{site.history.path}.{name}").touch()


def test_a_queue_has_spoolers_of_its_own_and_a_directory_for_its_owner_only(site: Site) -> None:
    site.call("holds", "queue")
    site.history.wait_for("start", "queue")
    for name in ("a", "b"):
        assert site.call("mail", name)["queue"] == "mail"
        site.history.wait_for("mail", name)
    release(site, "queue")
    site.wait_empty()
    folder = site.spool.parent / "spool-queues"
    for path in (folder, folder / "mail"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert not (folder / "mail" / "spoolkit.db").exists(), "one store for all queues"


def test_jobs_run_by_priority_and_an_urgent_one_before_those_that_a_scan_has_found(site: Site) -> None:
    site.call("holds", "order")
    site.history.wait_for("start", "order")
    site.call("low", "low")
    site.call("step", "first", "urgent")
    site.call("step", "second")
    site.call("step", "third")
    release(site, "order")
    site.history.wait_for("ran", "low")
    # uWSGI takes jobs of one priority in the order of its version sort, in which the ids of jobs are not in order.
    names = {"first", "urgent", "second", "third", "low"}
    ran = [event.words[1] for event in site.history.events("ran") if event.words[1] in names]
    assert set(ran) == names
    assert ran[-1] == "low"
    assert ran[ran.index("first") + 1] == "urgent", ran


def test_a_job_that_was_left_for_a_more_urgent_one_runs_although_the_spooler_is_killed(site: Site) -> None:
    site.call("holds", "kill")
    site.history.wait_for("start", "kill")
    site.call("step", "kills", "kills")
    site.call("step", "left")
    release(site, "kill")
    site.history.wait_for("ran", "left")
    site.history.wait_for("ran", "killed", count=2)
    site.wait_empty()


def test_the_runs_of_a_periodic_task_are_jobs_of_its_queue(site: Site) -> None:
    site.history.wait_for("tick", count=2)
    wait_until(lambda: list((site.spool.parent / "spool-queues" / "mail" / "later").rglob("uwsgi_spoolfile_on_*")))


@pytest.mark.matrix
def test_flask_spool_run_serves_all_queues_and_stops_with_success(tmp_path: Path) -> None:
    env = {**os.environ, **environment_in(tmp_path)}
    command = [sys.executable, "-m", "flask", "--app", "queues_app", "spool", "run"]
    spools = [tmp_path / name for name in ("spool", "spool-queues/mail")]
    runner = subprocess.Popen(command, cwd=SITE, env=env)
    try:
        wait_until(lambda: [len(spoolers.pids(str(path))) for path in spools] == [1, 2])
        code = "import queues_app as site; site.mail('mailed'); site.step('first', 'urgent')"
        subprocess.run([sys.executable, "-c", code], cwd=SITE, env=env, check=True, timeout=60)
        history = History(tmp_path / "history")
        history.wait_for("mail", "mailed")
        history.wait_for("ran", "urgent")
    finally:
        runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 0
    assert all(spoolers.pids(str(path)) == [] for path in spools)
