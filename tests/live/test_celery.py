"""Jobs in real workers of Celery, over real brokers: lost 0, bounded attempts, and true states, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import BROKERS, Broker, Process, Redis, Wire, is_installed, restart
from uwsgi_server import UwsgiServer, wait_until

pytestmark = pytest.mark.matrix

SITE = """
import os, time
from flask import Flask
from spoolkit import SpoolKit, current_job, spool

app = Flask("site_with_celery", root_path=os.environ["SITE"])
app.config.from_mapping(
    SPOOLKIT_SPOOL=os.environ["SITE"] + "/spool",
    SPOOLKIT_ENGINE="celery",
    SPOOLKIT_CELERY_LOST=3,
    SPOOLKIT_DEV_RUNNER=False,
    CELERY={"broker_url": os.environ["BROKER"], "worker_proc_alive_timeout": 30.0},
)
SpoolKit(app)


def note(word):
    fd = os.open(os.environ["SITE"] + "/notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{word} {current_job().id} {current_job().attempt}\\n".encode())
    os.close(fd)


@spool(retries=2, backoff=0)
def work(how="quick"):
    note("start")
    if how == "waits":
        while not os.path.exists(os.environ["SITE"] + "/go"):
            time.sleep(0.05)
    elif how == "kills":
        os.kill(os.getpid(), 9)
    elif how == "fails" and current_job().attempt < 3:
        raise ValueError("again")
    print("worked")
    note("end")
    return {"how": how}


@app.post("/call/<how>")
def call_by_http(how):
    return work(how).id


@app.cli.command("call")
def call():
    import sys
    for how in sys.stdin.read().split():
        print(work(how).id)
"""


class Site:
    """An application whose jobs run in a worker of Celery: an origin (``flask spool run``), a broker and a worker."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        (folder / "site_with_celery.py").write_text(SITE)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "SITE": str(folder),
            "BROKER": broker.url,
            "FLASK_APP": "site_with_celery",
            "PYTHONPATH": path,
            "C_FORCE_ROOT": "1",
        }
        self.origin = self._process("origin", "-m", "flask", "spool", "run")
        self.worker = self._process(
            "worker", "-m", "celery", "-A", "spoolkit.celery", "worker", "--concurrency", "2", "--loglevel", "INFO"
        )

    def _process(self, name: str, *command: str) -> Process:
        return Process([sys.executable, *command], self.folder / f"{name}.log", cwd=self.folder, env=self.env)

    def command(self, *words: str, text: str = "") -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "flask", *words],
            cwd=self.folder,
            env=self.env,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def call(self, *how: str) -> list[str]:
        """Enqueue jobs. Returns their ids."""
        return self.command("call", text=" ".join(how)).split()

    def show(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("spool", "show", id, "--json"))
        return found

    def notes(self, word: str) -> list[tuple[str, int]]:
        """The jobs and the numbers of the attempts that have noted this."""
        path = self.folder / "notes"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(id, int(attempt)) for what, id, attempt in lines if what == word]

    def go(self) -> None:
        (self.folder / "go").touch()

    def until(self, id: str, *states: str) -> dict[str, Any]:
        return wait_until(
            lambda: found if (found := self.show(id))["state"] in states else None, timeout=90, message=self.logs
        )

    def logs(self) -> str:
        return "\n".join(f"== {name}\n{one.log()[-3000:]}" for name, one in (("o", self.origin), ("w", self.worker)))


@pytest.fixture(params=list(BROKERS))
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    if not is_installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    with BROKERS[request.param](tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    site = Site(folder, broker)
    site.origin.start()
    site.worker.start()
    try:
        yield site
    finally:
        site.go()
        site.worker.kill()
        site.origin.stop()


def test_jobs_run_in_a_worker_and_their_ends_are_known_at_the_origin(site: Site) -> None:
    quick, fails = site.call("quick", "fails")
    found = site.until(quick, "done")
    assert (found["attempt"], found["result"]) == (1, {"how": "quick"})
    assert "worked" in json.dumps(found["attempts"])
    found = site.until(fails, "done")
    assert found["attempt"] == 3
    assert site.notes("start").count((fails, 2)) == 1
    assert not list((site.folder / "spool" / "sent").glob("uwsgi*"))


def test_under_uwsgi_an_http_process_hears_of_the_end(site: Site, tmp_path: Path) -> None:
    site.origin.stop()
    spool = site.folder / "spool"
    options = ["master = true", "processes = 2", "enable-threads = true", "module = site_with_celery:app"]
    options += [f"spooler = {spool}", "spooler-processes = 2", "spooler-frequency = 1"]
    with UwsgiServer(tmp_path, options=options, env=site.env, spool=spool, cwd=site.folder) as server:
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
    assert site.notes("start") == [(kills, 1), (kills, 2), (kills, 3)]


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
        assert len([one for one in site.notes("start") if one[0] == id]) <= 3


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
    folder = tmp_path / "site"
    folder.mkdir()
    site = Site(folder, broker)
    with Wire(broker.port) as of_origin, Wire(broker.port) as of_worker:
        for process, wire in ((site.origin, of_origin), (site.worker, of_worker)):
            process.env = {**site.env, "BROKER": broker.url.replace(str(broker.port), str(wire.port))}
            process.start()
        try:
            yield site, of_origin, of_worker
        finally:
            site.go()
            site.worker.kill()
            site.origin.stop()


def test_while_the_origin_is_cut_off_no_attempt_counts_as_lost(wired: tuple[Site, Wire, Wire]) -> None:
    site, of_origin, _ = wired
    (id,) = site.call("waits")
    wait_until(lambda: site.notes("start"), timeout=90, message=site.logs)
    site.until(id, "running")
    of_origin.cut()
    time.sleep(8)  # for longer than SPOOLKIT_CELERY_LOST; the test passes as well if that is not enough
    (later,) = site.call("quick")
    assert site.show(id)["state"] == "running"
    of_origin.mend()
    site.go()
    found = site.until(id, "done", "dead")
    assert (found["state"], found["attempt"], site.notes("start").count((id, 1))) == ("done", 1, 1), site.logs()
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
    assert sorted(site.notes("start")) == [(id, 1), (id, 2)]


def test_jobs_are_published_again_that_a_broker_without_a_disk_has_forgotten(tmp_path: Path) -> None:
    if not is_installed("redis"):
        pytest.skip("redis is not installed")
    with Redis(tmp_path / "broker", durable=False) as broker:
        folder = tmp_path / "site"
        folder.mkdir()
        site = Site(folder, broker)
        site.origin.start()
        try:
            ids = site.call(*["quick"] * 5)
            wait_until(lambda: len(list((folder / "spool" / "sent").glob("uwsgi*"))) == 5, message=site.logs)
            wait_until(lambda: (folder / "spool" / "sent" / "lock").read_bytes(), message=site.logs)  # a mark is left
            restart(broker)
            site.worker.start()
            assert [site.until(id, "done", "dead")["state"] for id in ids] == ["done"] * 5
            assert "the broker has forgotten what it had confirmed" in site.origin.log()
        finally:
            site.worker.kill()
            site.origin.stop()
