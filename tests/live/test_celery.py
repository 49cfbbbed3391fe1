"""Jobs in real workers of Celery, over real brokers: lost 0, bounded attempts, and true states, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker, Redis, Wire, is_installed, restart
from celery_workers import FOREVER, Site
from uwsgi_server import UwsgiServer, wait_until

pytestmark = pytest.mark.matrix

OLDER = """
import os
from flask import Flask
from spoolkit import SpoolKit

app = Flask("older")
app.config.update(SPOOLKIT_DEV_RUNNER=False, CELERY={"broker_url": os.environ["BROKER"]})
SpoolKit(app)
"""


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", broker)
    site.origin.start()
    site.worker.start()
    try:
        yield site
    finally:
        site.kill()


def test_jobs_run_in_a_worker_and_their_ends_are_known_at_the_origin(site: Site) -> None:
    quick, fails = site.call("quick", "fails")
    found = site.until(quick, "done")
    assert (found["attempt"], found["result"]) == (1, {"how": "quick"})
    assert "worked" in json.dumps(found["attempts"])
    found = site.until(fails, "done")
    assert found["attempt"] == 3
    assert site.starts(fails) == [1, 2, 3]
    wait_until(lambda: not site.sent(), message=site.logs)  # the record comes first
    assert list(site.temporary.glob("spoolkit-worker-*/*")) != []
    site.worker.stop()
    assert list(site.temporary.glob("spoolkit-worker-*")) == []


def test_under_uwsgi_an_http_process_hears_of_the_end(site: Site, tmp_path: Path) -> None:
    site.origin.stop()
    options = ["master = true", "processes = 2", "enable-threads = true", "module = site_with_celery:app"]
    options += [f"spooler = {site.spool}", "spooler-processes = 2", "spooler-frequency = 1"]
    with UwsgiServer(tmp_path, options=options, env=site.env, spool=site.spool, cwd=site.folder) as server:
        ids = [server.post(f"/call/{how}").text for how in ("quick", "fails")]
        assert [site.until(id, "done", "dead")["attempt"] for id in ids] == [1, 3], server.log()
        for pid in server.worker_pids()[:1]:
            os.kill(pid, signal.SIGKILL)  # perhaps the one that hears: the other one, or its successor, does it then
        id = server.post("/call/quick").text
        assert site.until(id, "done")["attempt"] == 1


def test_a_task_that_kills_its_process_is_dead_after_its_attempts(site: Site) -> None:
    (kills,) = site.call("kills")
    found = site.until(kills, "dead")
    assert (found["attempt"], found["max_attempts"]) == (3, 3)
    assert site.starts(kills) == [1, 2, 3]


@pytest.mark.parametrize("killed", ["worker", "origin", "broker"])
def test_nothing_is_lost_when_one_of_them_is_killed(site: Site, broker: Broker, killed: str) -> None:
    running, *waiting = site.call("waits", "waits", "quick", "fails")
    wait_until(lambda: len(site.notes("start")) >= 2, timeout=90, message=site.logs)
    site.until(running, "running")
    if killed == "broker":
        restart(broker)
    else:
        one = site.worker if killed == "worker" else site.origin
        one.kill()
        one.start()
    site.go()
    for id in (running, *waiting):
        found = site.until(id, "done", "dead")
        assert found["state"] == "done", site.logs()
        assert len(site.starts(id)) <= 3


def test_a_broker_that_is_away_stops_no_call_and_loses_nothing(site: Site, broker: Broker) -> None:
    (first,) = site.call("quick")
    site.until(first, "done")
    broker.kill()
    (id,) = site.call("quick")
    assert site.show(id)["state"] == "queued"
    broker.__enter__()
    assert site.until(id, "done")["attempt"] == 1


def test_an_attempt_in_a_worker_that_stands_still_for_long_is_lost(site: Site) -> None:
    (id,) = site.call("waits")
    wait_until(lambda: site.notes("start"), timeout=90, message=site.logs)
    site.until(id, "running")
    site.worker.signal(signal.SIGSTOP)
    found = site.until(id, "retrying", "queued")
    assert found["attempt"] == 1
    site.worker.kill()
    site.go()
    site.worker.start()
    found = site.until(id, "done", "dead")
    assert (found["state"], found["attempt"]) == ("done", 2)


@pytest.fixture
def wired(broker: Broker, tmp_path: Path) -> Iterator[tuple[Site, Wire, Wire]]:
    """A site whose origin and whose worker have a wire each to the broker, which can be cut."""
    site = Site(tmp_path / "site", broker)
    with Wire(broker.port) as of_origin, Wire(broker.port) as of_worker:
        for process, wire in ((site.origin, of_origin), (site.worker, of_worker)):
            process.env = {**site.env, "BROKER": broker.url.replace(str(broker.port), str(wire.port))}
            process.start()
        try:
            yield site, of_origin, of_worker
        finally:
            site.kill()


def test_while_the_origin_is_cut_off_no_attempt_counts_as_lost(wired: tuple[Site, Wire, Wire]) -> None:
    site, of_origin, _ = wired
    (id,) = site.call("waits")
    wait_until(lambda: site.notes("start"), timeout=90, message=site.logs)
    site.until(id, "running")
    of_origin.cut()
    (later,) = site.call("quick")
    # A broker has ten seconds to answer, which is longer than SPOOLKIT_CELERY_LOST.
    wait_until(lambda: "cannot be published" in site.origin.log(), timeout=90, message=site.logs)
    assert site.show(id)["state"] == "running"
    of_origin.mend()
    site.go()
    found = site.until(id, "done", "dead")
    assert (found["state"], found["attempt"], site.starts(id)) == ("done", 1, [1]), site.logs()
    assert site.until(later, "done", "dead")["state"] == "done"


def test_a_worker_that_is_cut_off_counts_as_dead_and_its_late_end_changes_nothing(
    wired: tuple[Site, Wire, Wire],
) -> None:
    site, _, of_worker = wired
    (id,) = site.call("waits")
    wait_until(lambda: site.notes("start"), timeout=90, message=site.logs)
    site.until(id, "running")
    of_worker.cut()
    site.until(id, "retrying", "queued")
    site.go()
    wait_until(lambda: site.notes("end"), timeout=90, message=site.logs)
    of_worker.mend()
    found = site.until(id, "done", "dead")
    assert (found["state"], found["attempt"]) == ("done", 2), site.logs()
    assert site.starts(id) == [1, 2]


def test_jobs_are_published_again_that_a_broker_without_a_disk_has_forgotten(tmp_path: Path) -> None:
    if not is_installed("redis"):
        pytest.skip("redis is not installed")
    with Redis(tmp_path / "broker", durable=False) as broker:
        site = Site(tmp_path / "site", broker)
        site.origin.start()
        try:
            ids = site.call(*["quick"] * 5)
            wait_until(lambda: len(site.sent()) == 5, message=site.logs)
            restart(broker)
            site.worker.start()
            assert [site.until(id, "done", "dead")["state"] for id in ids] == ["done"] * 5
            assert "the broker may have forgotten jobs" in site.origin.log()
        finally:
            site.kill()


def test_a_job_is_cancelled_with_the_broker_and_in_a_worker(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", broker)
    site.origin.start()
    try:
        (waiting,) = site.call("quick")
        wait_until(lambda: site.is_sent(waiting), timeout=FOREVER, message=site.logs)
        site.command("spool", "cancel", waiting)
        site.worker.start()
        (running,) = site.call("until cancelled")
        site.until_noted("start", [running])
        site.command("spool", "cancel", running)
        assert site.until(running, "done", "dead", "cancelled")["state"] == "cancelled"
        assert (site.show(waiting)["state"], site.starts(waiting)) == ("cancelled", [])
        wait_until(lambda: not site.sent(), timeout=FOREVER, message=site.logs)  # after the record
    finally:
        site.kill()


def test_a_job_of_a_task_that_a_worker_does_not_know_waits_for_one_that_does(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", broker)
    (site.folder / "older.py").write_text(OLDER)
    older = site.process("older", *site.worker_command)
    older.env = {**site.env, "FLASK_APP": "older", "SPOOLKIT_SPOOL": str(site.folder / "none")}
    older.env["PYTHONPATH"] = os.pathsep.join([str(site.folder), site.env["PYTHONPATH"]])
    site.origin.start()
    older.start()
    try:
        (id,) = site.call("quick")
        wait_until(lambda: "left for another version" in site.origin.log(), timeout=FOREVER, message=site.logs)
        assert site.starts(id) == []
        older.stop()  # not killed: with Redis, what it has fetched would come back after a minute
        site.worker.start()
        assert site.until(id, "done", "dead")["state"] == "done"
    finally:
        older.kill()
        site.kill()


def test_a_worker_with_threads_instead_of_processes_is_refused(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", broker)
    worker = site.process("threads", *site.worker_command, "--pool", "threads")
    worker.start()
    try:
        wait_until(lambda: worker.exited, timeout=FOREVER, message=site.logs)
        assert "Leave out --pool" in worker.log()
    finally:
        worker.kill()
