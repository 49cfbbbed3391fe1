"""Which code a spooler runs after a reload, and what becomes of jobs where a stop meets a reload."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from uwsgi_server import wait_until

from spoolkit.doctor.examine import examine
from spoolkit.spooldir import spoolers

from .draining import Deployed, deployed


def rewrite(site: Deployed, old: str, new: str) -> None:
    path = site.folder / "code" / "drain_site.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def reload(site: Deployed) -> None:
    done = site.jobs.log().count("chain reloading complete")
    site.signal(signal.SIGHUP)
    wait_until(
        lambda: site.jobs.log().count("chain reloading complete") > done,
        timeout=60,
        message=lambda: site.jobs.log()[-4000:],
    )


def checks(site: Deployed) -> list[str]:
    spool = str(site.site.spool)
    return [finding.check for finding in examine(spool, store=f"{spool}/spoolkit.db")]


def test_a_spooler_that_ignores_the_signal_of_a_reload_runs_no_job_with_the_old_code(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps", spoolers=1) as site:
        site.wait_until_up()
        (old,) = site.jobs.spooler_pids()
        long = site.call("deaf")
        site.site.history.wait_for("start", long)
        rewrite(site, 'VERSION = "old"', 'VERSION = "new"')
        reload(site)
        next_one = site.call("work", 0)
        wait_until(lambda: spoolers.outdated_pids(str(site.site.spool)) == [old])
        assert "old-code" in checks(site)
        site.release()
        assert wait_until(lambda: site.result(long)) == b'"old"'
        assert wait_until(lambda: site.result(next_one)) == b'"new"'
        assert site.starts(next_one) == 1
        assert "old-code" not in checks(site)


def test_an_application_that_spoolers_cannot_load_is_reported_by_log_doctor_and_commands(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps", spoolers=1) as site:
        site.wait_until_up()
        rewrite(site, 'VERSION = "old"', "raise ImportError(\"half deployed\")\nVERSION = 'old'")
        os.kill(site.jobs.spooler_pids()[0], signal.SIGKILL)
        spool = str(site.site.spool)
        assert "half deployed" in wait_until(lambda: spoolers.load_error(spool))
        wait_until(lambda: site.jobs.log().count("OOOPS the spooler is no more") >= 3)
        assert site.jobs.log().count("cannot be loaded; this spooler runs no job") == 1
        said = subprocess.run(
            [sys.executable, "-m", "spoolkit", "doctor", spool],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
            timeout=100,
        )
        assert said.returncode == 1
        assert "error [broken-code] no new spooler starts: " in said.stdout
        assert "half deployed" in said.stdout
        id = site.call("work", 0)
        rewrite(site, 'raise ImportError("half deployed")\n', "")
        assert wait_until(lambda: site.result(id)) == b'"old"'
        assert "broken-code" not in checks(site)


def stop_after_a_reload(site: Deployed, seconds: float) -> None:
    id = site.call("work", 3)
    site.site.history.wait_for("start", id)
    site.signal(signal.SIGHUP)
    until = time.monotonic() + seconds  # what is tested is each moment of a reload
    wait_until(lambda: time.monotonic() >= until)
    site.signal(signal.SIGTERM)
    site.wait_for_exit(60)


@pytest.mark.parametrize(
    "seconds", [0.5, *(pytest.param(n / 10, marks=pytest.mark.matrix) for n in range(20) if n != 5)]
)
def test_a_stop_during_a_reload_of_one_http_process_costs_no_attempt(tmp_path: Path, seconds: float) -> None:
    with deployed(tmp_path, "lazy-apps", processes=1) as site:
        site.jobs.wait_for_spoolers()
        wait_until(lambda: 'unix_signal:3 worker_wakeup" (accepting)' in site.jobs.log())
        stop_after_a_reload(site, seconds)
        ids = site.ids
    assert "crashed" not in site.endings(ids[0])
    if not site.result(ids[0]):
        with deployed(tmp_path, "lazy-apps", processes=1) as again:
            assert (
                wait_until(
                    lambda: again.result(ids[0]),
                    message=lambda: (
                        f"{again.endings(ids[0])} {again.site.files()} {again.site.history.events()} {again.jobs.log()}"
                    ),
                )
                == b'"old"'
            )


@pytest.mark.matrix
def test_a_locked_store_delays_a_stop_once_and_costs_no_attempt(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps", grace=1, spoolers=3) as site:
        site.wait_until_up()
        for _ in range(3):
            site.site.history.wait_for("start", site.call("work", 5))
        lock = sqlite3.connect(site.site.spool / "spoolkit.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        try:
            site.signal(signal.SIGTERM)
            site.wait_for_exit(25)  # for each job it would be 10 s, one after another
        finally:
            lock.close()
        ids = site.ids
    with deployed(tmp_path, "lazy-apps", spoolers=3) as again:
        for id in ids:
            assert wait_until(lambda id=id: again.result(id)) == b'"old"'
            assert again.endings(id) == ["interrupted", "done"]
