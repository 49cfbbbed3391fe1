"""A job's file that was copied, or has two names, is one job: it never runs twice at the same time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from uwsgi_server import wait_until

from spoolkit.spooldir import gate, spoolers
from spoolkit.spooldir.spoolfile import PREFIX

from .conftest import StartSite


@pytest.mark.parametrize("twice", [shutil.copy, os.link])
def test_a_copied_job_runs_once(start_site: StartSite, tmp_path: Path, twice: object) -> None:
    site = start_site(module="kill_tasks", spoolers=2)
    spool = str(site.spool)
    gate.pause(spool)
    job = site.call("waits_for_its_release", "return")["job"]
    twice(f"{spool}/{PREFIX}{job}", f"{spool}/{PREFIX}{job}.7")  # type: ignore[operator]
    gate.resume(spool)
    spoolers.wake_all(spool)
    site.history.wait_for("start", job)
    if twice is shutil.copy:
        site.server.wait_for_log("is a copy of")
    (tmp_path / "released").touch()
    wait_until(lambda: not site.files(), message=lambda: str(site.files()))
    assert len(site.history.events("start", job)) == 1
