"""What docs/scaling.md says of several hosts, each with a spool directory of its own: two servers on one machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Process
from uwsgi_server import UwsgiServer, wait_until

from .conftest import PROJECT

pytestmark = pytest.mark.matrix

EXAMPLE = PROJECT / "examples" / "celery"

MORE = """

import time
from spoolkit import current_job, periodic


@spool
def tick() -> None:
    open(os.environ["TICKS"], "a").close()


if os.environ.get("SITE_RUNS_SCHEDULES") == "yes":
    periodic(every=1)(tick)


@spool(backoff=0)
def hang_once() -> None:
    open(os.environ["TICKS"] + "-hangs", "a").close()
    if current_job().attempt == 1:
        time.sleep(600)


@app.post("/later")
def later() -> Response:
    return jsonify(job=count_words.using(delay=3)("one two").id)


@app.post("/hang")
def hang() -> Response:
    return jsonify(job=hang_once().id)
"""


def environment(folder: Path, schedules: str = "") -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    own = {"SITE_RUNS_SCHEDULES": schedules, "TICKS": str(folder / "ticks"), "FLASK_APP": "app"}
    return {**given, **own, "PROCESSES": "1", "SPOOLERS": "2"}


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[UwsgiServer, UwsgiServer]]:
    servers = []
    for name, schedules in (("web1", "yes"), ("web2", "")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "app.py").write_text((EXAMPLE / "app.py").read_text() + MORE)
        shutil.copy(EXAMPLE / "uwsgi.ini", folder)
        servers.append(UwsgiServer(folder, ini=folder / "uwsgi.ini", env=environment(folder, schedules)))
    with servers[0] as one, servers[1] as two:
        yield one, two


def state(server: UwsgiServer, id: str) -> str:
    answer = server.get(f"/jobs/{id}")
    return str(answer.json["state"]) if answer.status == 200 else f"HTTP {answer.status}"


def test_each_host_runs_and_knows_its_own_jobs_and_a_directory_can_move(
    hosts: tuple[UwsgiServer, UwsgiServer], tmp_path: Path
) -> None:
    one, two = hosts
    for server, other in ((one, two), (two, one)):
        id = server.post("/count").json["job"]
        wait_until(lambda server=server, id=id: state(server, id) == "done", message=server.log)
        assert state(other, id) == "HTTP 404"
    wait_until((tmp_path / "web1" / "ticks").exists, message=one.log)
    assert not (tmp_path / "web2" / "ticks").exists()

    ids = [two.post(path).json["job"] for path in ("/hang", "/later", "/count")]
    wait_until((tmp_path / "web2" / "ticks-hangs").exists, message=two.log)
    two.kill()
    moved = tmp_path / "moved"
    subprocess.run(["cp", "--archive", two.spool, moved], check=True, timeout=60)
    shutil.rmtree(two.spool)

    folder = tmp_path / "web1"  # the code of the host to which the directory goes
    env = {**environment(folder), "SPOOLKIT_SPOOL": str(moved)}
    spoolers = Process([sys.executable, "-m", "flask", "spool", "run"], tmp_path / "spoolers.log", cwd=folder, env=env)

    def show(id: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "flask", "spool", "show", id, "--json"],
            cwd=folder, env=env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    spoolers.start()
    try:
        for id in ids:
            wait_until(lambda id=id: show(id)["state"] == "done", timeout=60, message=spoolers.log)
    finally:
        spoolers.stop()
    assert show(ids[0])["attempt"] == 2
    assert [state(one, id) for id in ids] == ["HTTP 404"] * 3
