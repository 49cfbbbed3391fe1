"""Timers and crons that are registered at import fire once per due time, through reloads of changed code."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from uwsgi_server import UwsgiServer, wait_until

from spoolkit.doctor.examine import examine
from spoolkit.uwsgi import ledger

from .conftest import SITE, History
from .draining import GUARD, RELOAD, STOP_HOOKS


class TimersSite:
    """A site whose code a test may change, with two HTTP processes and two spoolers."""

    def __init__(self, folder: Path) -> None:
        self.code = folder / "code"
        self.code.mkdir()
        for name in ("timers_site.py", "history.py"):
            shutil.copy(SITE / name, self.code / name)
        self.history = History(folder / "history")
        self.monitored = folder / "monitored"
        self.monitored.write_text("")
        self.server = UwsgiServer(
            folder,
            options=[
                "master = true",
                "enable-threads = true",
                "need-app = true",
                "processes = 2",
                f"pythonpath = {self.code}",
                f"chdir = {self.code}",
                "module = timers_site:app",
                "spooler-processes = 2",
                "spooler-frequency = 1",
                f"spooler = {folder / 'spool'}",
                *STOP_HOOKS,
                *RELOAD,
                *GUARD,
            ],
            env={
                "HISTORY": str(self.history.path),
                "MONITORED": str(self.monitored),
                "PYTHONUNBUFFERED": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )

    def rewrite(self, *changes: tuple[str, str]) -> None:
        path = self.code / "timers_site.py"
        text = path.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)

    def reload(self) -> None:
        done = self.server.log().count("chain reloading complete")
        os.kill(self.server.master_pid, signal.SIGHUP)
        wait_until(
            lambda: self.server.log().count("chain reloading complete") > done,
            timeout=60,
            message=lambda: self.server.log()[-4000:],
        )

    def wait_until_once_a_second(self, *kinds: str, since: int | None = None) -> None:
        """Wait until each of these timers of one second has fired once a second, by six of its calls in a row.

        A timer with two entries never does. One of a machine that stood still does so again after a while.

        Args:
            kinds: The timers.
            since: How many calls of each do not count; ``None``: those until now.
        """
        begun = {kind: len(self.history.events(kind)) if since is None else since for kind in kinds}

        def is_steady(kind: str) -> bool:
            times = [event.time for event in self.history.events(kind)[begun[kind] :]][-6:]
            return len(times) == 6 and 5 / (times[-1] - times[0]) <= 1.5

        wait_until(lambda: all(map(is_steady, kinds)), message=lambda: str(self.history.events()))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimersSite]:
    site = TimersSite(tmp_path_factory.mktemp("timers"))
    with site.server:
        site.server.wait_for_spoolers()
        yield site


def test_spoolers_import_an_application_with_timers(site: TimersSite) -> None:
    jobs = len(site.history.events("job"))
    site.server.get("/call")
    site.history.wait_for("job", count=jobs + 1)
    assert "unable to register signal" not in site.server.log()


def test_a_file_monitor_fires_once_for_a_change(site: TimersSite) -> None:
    # uWSGI's master begins to look at the file where it begins with the timers.
    site.history.wait_for("timer")
    before = len(site.history.events("filemon"))
    seen = len(site.history.events("timer"))
    site.monitored.write_text("changed")
    site.history.wait_for("filemon", count=before + 1)
    site.history.wait_for("timer", count=seen + 3)  # a second entry would have called it by now
    # Writing truncates the file first, which uWSGI may see as a change by itself.
    assert len(site.history.events("filemon")) <= before + 2


def test_a_timer_fires_once_per_due_time_through_reloads(site: TimersSite) -> None:
    site.wait_until_once_a_second("timer", "rbtimer", since=0)
    site.reload()
    site.wait_until_once_a_second("timer", "rbtimer")


def test_a_cron_fires_once_a_minute(site: TimersSite) -> None:
    times = [event.time for event in site.history.wait_for("cron")]
    assert len(times) <= 1 + (times[-1] - times[0]) / 40


def test_a_target_that_cannot_work_is_reported_by_log_and_doctor(site: TimersSite) -> None:
    assert re.search(r"timers_site\.elsewhere: the target 'spooler' has no effect", site.server.log())
    spool = str(site.server.spool)
    assert ledger.ineffective_targets(spool, site.server.master_pid) == [("timers_site.elsewhere", "spooler")]
    (finding,) = [one for one in examine(spool, store=f"{spool}/spoolkit.db") if one.check == "timer-target"]
    assert "timers_site.elsewhere" in finding.problem


def test_a_change_of_timers_calls_no_other_function(site: TimersSite) -> None:
    removed = ('@timer(1)\ndef every_second(signum: int) -> None:\n    note("timer")', "")
    added = ("# begin", '@timer(1)\ndef fresh(signum: int) -> None:\n    note("fresh")\n')
    site.rewrite(removed, added)
    site.reload()
    gone = len(site.history.events("timer"))
    site.wait_until_once_a_second("fresh", "rbtimer")
    assert len(site.history.events("timer")) == gone
    assert "Segmentation Fault" not in site.server.log()


@pytest.mark.matrix
def test_a_timer_fires_once_after_more_reloads_than_uwsgi_has_places_for_timers(site: TimersSite) -> None:
    for _ in range(64 + 6):
        site.reload()
    site.wait_until_once_a_second("rbtimer")
    assert "you can register max" not in site.server.log()
