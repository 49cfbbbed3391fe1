"""Hooks of spoolers, a signal and a header on a real server, through a reload and a stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from uwsgi_server import wait_until

from .conftest import site_in
from .draining import GUARD, RELOAD, STOP_HOOKS


@pytest.mark.matrix
def test_hooks_a_signal_and_a_header_through_a_reload_and_a_stop(tmp_path: Path) -> None:
    options = [*RELOAD, *GUARD, *STOP_HOOKS]
    site = site_in(tmp_path, *options, module="hooks_app", processes=2, spoolers=1)

    def pids(word: str) -> list[int]:
        return [event.pid for event in site.history.events(word)]

    with site.server:
        # A worker that is still starting takes a signal to reload as its master would, and is not replaced.
        wait_until(lambda: site.server.log().count('unix_signal:3 worker_wakeup" (accepting)') >= 2)
        site.server.request("POST", "/call/first", headers={"X-Request-Id": "4f1c"})
        site.history.wait_for("task", "first", "4f1c")
        site.history.wait_for("done", "first")
        (first,) = pids("start")
        assert pids("done") == pids("task") == [first]
        site.server.wait_for_log(r"hooks_app\.task is done.* \[request_id=4f1c\]")
        os.kill(site.server.master_pid, signal.SIGHUP)
        # An idle spooler is asked to exit once the new code serves.
        wait_until(lambda: first in pids("stop"), message=site.server.log)
        site.server.request("POST", "/call/second", headers={"X-Request-Id": "5e2d"})
        site.history.wait_for("done", "second")
        second = pids("start")[-1]
        assert second != first
        site.server.wait_for_log("chain reloading complete")
        # Its HTTP processes wait for what the spoolers do at their end.
        site.server.stop()
    wait_until(lambda: second in pids("stop"), message=site.server.log)
    assert sorted(pids("stop")) == sorted(pids("start"))
