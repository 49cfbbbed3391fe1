"""Delayed jobs under a real uWSGI and under ``flask spool run``: on time, never early, and never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sampling import sampled
from uwsgi_server import wait_until

from spoolkit.spooldir import later, spoolfile
from spoolkit.uwsgi import recommended

from .conftest import Site, StartSite


def wait_for_mover(site: Site) -> None:
    wait_until(lambda: later.has_mover(str(site.spool)), message=site.server.log)


def names_in_later(site: Site) -> list[str]:
    folder = site.spool / "later"
    return [name for name in os.listdir(folder) if name.startswith(spoolfile.PREFIX)] if folder.exists() else []


def test_delayed_jobs_run_on_time_and_never_early(start_site: StartSite) -> None:
    # So rarely that a scan cannot be what finds them.
    site = start_site(spoolers=2, frequency=600)
    wait_for_mover(site)
    # In a while, so that all are accepted before. The fourth lies on a whole second, at which uWSGI may be behind.
    now = time.time() + 2
    times = [now + 1.0, now + 1.2507, now + 1.6003, float(int(now) + 3), float(int(now) + 3) + 0.001]
    expected = {}
    for at, word in zip(times, "abcde", strict=True):
        expected[word] = site.call("note", word, using={"at": at})["run_at"]
    waiting = len(names_in_later(site))
    assert waiting == len(times) or time.time() >= min(times), "unless a machine that stood still has made them due"
    events = {event.words[1]: event.time for event in site.history.wait_for("note", count=len(times))}
    assert all(events[word] >= at for word, at in expected.items()), "early"
    site.wait_empty()


def test_a_retry_waits_where_uwsgi_does_not_look_and_runs_without_a_scan(start_site: StartSite) -> None:
    site = start_site(frequency=600)
    wait_for_mover(site)
    site.call("flaky", "raised", 2)
    site.history.wait_for("flaky", "raised", count=3)
    site.wait_empty()


def test_a_delayed_job_keeps_its_priority(start_site: StartSite) -> None:
    site = start_site("spooler-ordered = true", frequency=600)
    wait_for_mover(site)
    answer = site.call("note", "urgent", using={"delay": 2, "priority": 3})
    waiting = os.listdir(site.spool / "later" / "3")
    assert waiting == [f"{spoolfile.PREFIX}{answer['job']}"] or time.time() >= answer["run_at"], "it is not due yet"
    site.history.wait_for("note", "urgent")
    site.wait_empty()
    wait_until(lambda: os.listdir(site.spool / "later" / "3") == [])


@pytest.mark.parametrize("processes", sampled([1, 2], 2))
def test_another_process_takes_over_when_the_elected_one_is_killed(start_site: StartSite, processes: int) -> None:
    site = start_site(frequency=600, processes=processes)
    wait_for_mover(site)
    site.call("note", "delayed", using={"delay": 2})
    for pid in site.server.worker_pids():
        if is_mover(site, pid):
            os.kill(pid, signal.SIGKILL)
    site.history.wait_for("note", "delayed")
    site.wait_empty()
    assert len(site.history.events("note", "delayed")) == 1


def test_jobs_start_after_the_last_http_process_has_exited(start_site: StartSite, environment: dict[str, str]) -> None:
    """``idle`` ends it, which is not a stop. Delayed jobs start, and new ones of another process."""
    lines = [f"{name} = {value}" for name, value in (*recommended.STOP, *recommended.RELOAD)]
    site = start_site(*lines, "idle = 2", processes=1)
    wait_for_mover(site)
    site.call("note", "delayed", using={"delay": 6})

    def has_exited() -> bool:
        assert not (site.spool / "spoolers" / "stopping").exists()
        if later.has_mover(str(site.spool)) or site.server.worker_pids():
            return False
        if not names_in_later(site) or (site.spool / spoolfile.TICKET).exists():
            return True
        # uWSGI kills a process that takes more than three seconds to exit: it could leave nothing to the spoolers.
        site.server.get("/ping")
        return False

    wait_until(has_exited, timeout=120)
    enqueue = "import site_tasks; site_tasks.note('new')"
    subprocess.run([sys.executable, "-c", enqueue], env={**os.environ, **environment}, check=True, timeout=60)
    site.history.wait_for("note", "new")
    site.history.wait_for("note", "delayed")
    # The file that called the spoolers goes with the last delayed job.
    wait_until(lambda: not (site.spool / spoolfile.TICKET).exists())
    assert site.server.worker_pids() == []


def is_mover(site: Site, pid: int) -> bool:
    pipe = os.stat(site.spool / "later" / later.PIPE)
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            about = fd.stat()
        except OSError:
            continue
        if (about.st_dev, about.st_ino) == (pipe.st_dev, pipe.st_ino):
            return True
    return False


def test_jobs_of_the_version_before_run_from_the_spool_directory(start_site: StartSite) -> None:
    site = start_site()
    job = site.call("note", "old", using={"delay": 3600})["job"]
    name = f"{spoolfile.PREFIX}{job}"
    due = time.time() + 1.5
    os.utime(site.spool / "later" / name, (due, due))
    os.rename(site.spool / "later" / name, site.spool / name)
    (event,) = site.history.wait_for("note", "old")
    assert event.time >= due


def test_a_job_that_expires_before_it_is_due_does_not_start(site: Site) -> None:
    expired = site.call("note", "too-late", using={"delay": 1.0, "expires": 0.5})["job"]
    site.call("note", "in-time", using={"delay": 1.5, "expires": 600})
    site.history.wait_for("note", "in-time")
    site.server.wait_for_log(f"job {expired} of site_tasks.note is cancelled: it expired")
    site.wait_empty()
    assert site.history.events("note", "too-late") == []
