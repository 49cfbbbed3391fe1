"""What a task may do to the process that runs it."""

from __future__ import annotations

import json

import pytest
from uwsgi_server import wait_until

from spoolkit.store import Store

from .conftest import StartSite


@pytest.mark.parametrize("how", ["return", "exit", "raise"])
def test_a_child_that_a_task_forked_does_not_become_a_second_spooler(start_site: StartSite, how: str) -> None:
    site = start_site()
    spoolers = site.server.spooler_pids()
    job = site.call("forks", how)["job"]
    site.call("note", "after")
    site.history.wait_for("note", "after")
    site.wait_empty()
    assert len(site.history.events("forks")) == 1, "its end is the parent's alone to tell"
    assert site.dead() == {}
    store = Store(str(site.spool / "spoolkit.db"))
    status = store.status(job)
    store.close()
    assert status is not None
    assert status.result == json.dumps(how).encode(), "not the child's"
    wait_until(lambda: site.server.spooler_pids() == spoolers)


def test_a_task_that_closes_all_descriptors_is_done_and_others_run(start_site: StartSite) -> None:
    site = start_site()
    site.call("closes_everything")
    site.server.wait_for_log("closed descriptors that are not its own")
    site.call("note", "after")
    site.history.wait_for("note", "after")
    site.wait_empty()
    assert len(site.history.events("closes")) == 1
