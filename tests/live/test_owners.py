"""Root gives the files of jobs to the user whose spoolers run them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from uwsgi_server import UwsgiServer

from .conftest import SITE, History, Site, environment_in, site_in

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def owners(site: Site) -> list[int]:
    return sorted((site.spool / name).stat().st_uid for name in site.files())


def test_root_asks_for_the_owner_at_each_job_if_the_spoolers_are_those_of_another_server(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    options = ["master = true", "enable-threads = true", "need-app = true", "module = site_app:app", "processes = 1"]
    options += [f"pythonpath = {SITE}", f"chdir = {SITE}", "threads = 2", f"spooler-external = {spool}"]
    with UwsgiServer(tmp_path, options=options, env=environment_in(tmp_path), spools=False) as server:
        site = Site(server, History(tmp_path / "history"))
        site.call("note", "before")
        assert owners(site) == [0]
        os.chown(spool / "spoolers", NOBODY, NOBODY)  # as the first spooler of the other server may do
        site.call("note", "after")
        assert owners(site) == [0, NOBODY]


def test_jobs_run_that_root_has_given_to_another_user_than_its_spoolers(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o700)
    os.chown(tmp_path / "spool", NOBODY, NOBODY)
    site = site_in(tmp_path)
    with site.server:
        site.call("note", "one")
        site.history.wait_for("note", "one")
        os.chown(site.spool, 0, 0)
        site.call("note", "two")
        site.history.wait_for("note", "two")
        site.wait_empty()
