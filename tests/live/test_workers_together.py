"""Batches, chains, unique jobs, schedules and checkpoints of jobs in real workers of Celery, over real brokers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Process
from uwsgi_server import wait_until

pytestmark = pytest.mark.matrix

SITE = """
import json, os, time
import click
from flask import Flask
from spoolkit import RESULT, Batch, SpoolKit, chain, current_job, periodic, spool

FOLDER = os.environ["SITE"]
app = Flask("site_of_workers", root_path=FOLDER)
app.config.from_mapping(
    SPOOLKIT_SPOOL=FOLDER + "/spool",
    SPOOLKIT_ENGINE="celery",
    SPOOLKIT_CELERY_LOST=60,
    SPOOLKIT_DEV_RUNNER=False,
    CELERY={"broker_url": os.environ["BROKER"], "worker_proc_alive_timeout": 30.0},
)
SpoolKit(app)


def note(*words):
    fd = os.open(FOLDER + "/notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    os.close(fd)


@spool
def double(number):
    return 2 * number


@spool(engine="spool")
def at_home(number):
    return number + 1


@spool(retries=0)
def fails():
    raise ValueError("no")


@spool
def report():
    note("report", sum(Batch.get(current_job().batch).results))


@spool(unique=("user",))
def waits(user):
    while not os.path.exists(FOLDER + "/go"):
        time.sleep(0.05)
    return user


@spool(retries=2, backoff=0)
def resumes():
    seen = current_job().resume([])
    current_job().checkpoint([*seen, current_job().attempt])
    if current_job().attempt < 3:
        raise ValueError("again")
    return seen


@periodic(every=1)
@spool
def tick():
    note("tick", "starts")
    time.sleep(0.2)
    note("tick", "ends")


@app.cli.command("enqueue")
def enqueue():
    with Batch("numbers", then=report.call()) as batch:
        for number in range(5):
            batch.add(double, number)
        batch.add(at_home, 1)
        batch.add(fails)
    jobs = chain(double.call(1), at_home.call(RESULT), double.call(RESULT)).jobs
    first, again = waits(1), waits(1)
    ids = {"chain": jobs[-1].id, "unique": first.id, "duplicate": again.id, "checkpoint": resumes().id}
    click.echo(json.dumps({**ids, "batch": batch.id}))


@app.cli.command("call")
def call():
    click.echo(waits(1).id)
"""


class Site:
    """An origin (``flask spool run``), and a worker that runs two jobs at a time."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        (folder / "site_of_workers.py").write_text(SITE)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "SITE": str(folder),
            "BROKER": url,
            "FLASK_APP": "site_of_workers",
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
            "C_FORCE_ROOT": "1",
        }
        self.origin = self._process("origin", "-m", "flask", "spool", "run")
        self.worker = self._process("worker", "-m", "celery", "-A", "spoolkit.celery", "worker", "--concurrency", "2")

    def _process(self, name: str, *command: str) -> Process:
        return Process([sys.executable, *command], self.folder / f"{name}.log", cwd=self.folder, env=self.env)

    def command(self, *words: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "flask", *words],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def enqueue(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.command("enqueue"))
        return found

    def show(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("spool", "show", id, "--json"))
        return found

    def done(self, id: str) -> dict[str, Any]:
        return wait_until(
            lambda: found if (found := self.show(id))["state"] == "done" else None, timeout=150, message=self.logs
        )

    def notes(self, word: str) -> list[str]:
        path = self.folder / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{word} ")]

    def go(self) -> None:
        (self.folder / "go").touch()

    def logs(self) -> str:
        return "\n".join(f"== {name}\n{one.log()[-3000:]}" for name, one in (("o", self.origin), ("w", self.worker)))


@pytest.fixture
def site(broker: Any, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    site = Site(folder, broker.url)
    site.origin.start()
    site.worker.start()
    try:
        yield site
    finally:
        site.go()
        site.worker.kill()
        site.origin.stop()


@pytest.mark.parametrize("killed", ["nothing", "origin"])
def test_what_follows_from_jobs_in_workers_follows_once(site: Site, killed: str) -> None:
    ids = site.enqueue()
    assert ids["duplicate"] == ids["unique"]
    wait_until(lambda: site.show(ids["unique"])["state"] == "running", timeout=150, message=site.logs)
    if killed == "origin":
        site.origin.kill()
        site.origin.start()
    assert site.command("call").strip() == ids["unique"]  # the key is held, whatever has been killed
    site.go()
    assert site.done(ids["unique"])["result"] == 1
    assert site.command("call").strip() != ids["unique"]
    assert site.done(ids["chain"])["result"] == 6
    assert site.done(ids["checkpoint"])["result"] == [1, 2]
    wait_until(lambda: site.notes("report"), timeout=150, message=site.logs)
    wait_until(lambda: len(site.notes("tick")) >= 6, timeout=150, message=site.logs)
    assert set(site.notes("report")) == {"22"}  # 0 + 2 + 4 + 6 + 8, and 1 + 1; a spooler that is killed runs it again
    ticks = site.notes("tick")
    assert ticks == ["starts", "ends"] * (len(ticks) // 2) + ["starts"] * (len(ticks) % 2), site.logs()
