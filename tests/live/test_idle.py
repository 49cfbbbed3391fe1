"""uWSGI's ``idle``: HTTP processes exit when there are no requests, which is not a stop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from uwsgi_server import wait_until

from spoolkit.uwsgi import recommended

from .conftest import StartSite


@pytest.mark.matrix  # test_later.py has one HTTP process that idles
def test_jobs_start_while_http_processes_idle_and_after(
    start_site: StartSite, environment: dict[str, str], tmp_path: Path
) -> None:
    lines = [f"{name} = {value}" for name, value in (*recommended.STOP, *recommended.RELOAD)]
    site = start_site(*lines, "idle = 2", processes=2)
    stopping = tmp_path / "spool" / "spoolers" / "stopping"
    assert site.server.get("/ping").status == 200
    spells = site.server.log().count("cheap mode enabled")

    def ends_processes() -> bool:
        assert not stopping.exists()
        return site.server.log().count("cheap mode enabled") > spells

    # uWSGI takes up to three seconds per process, one after another.
    wait_until(ends_processes, timeout=40)
    enqueue = "import site_tasks; site_tasks.note('hello')"
    subprocess.run([sys.executable, "-c", enqueue], env={**os.environ, **environment}, check=True, timeout=60)
    site.history.wait_for("note", "hello")
    assert site.server.worker_pids() == []
