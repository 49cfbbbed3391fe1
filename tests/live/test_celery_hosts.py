"""The compose file of examples/celery, run on hosts that are network namespaces: the site, the broker, two workers."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose
import pytest
from brokers import is_installed
from uwsgi_server import wait_until

from .conftest import PROJECT
from .hosts import Host, Network, refusal

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(480)]

EXAMPLE = PROJECT / "examples" / "celery"
SERVICES: dict[str, Any] = compose.read(EXAMPLE / "docker-compose.yml", {"REDIS_PASSWORD": "secret7"})["services"]
PATIENCE = 150.0
"""Seconds: TCP waits longer and longer before it tries a cable again."""

MORE = """

import time
from pathlib import Path

from spoolkit import current_job

VAR = Path(__file__).with_name("var")


@spool(retries=20, backoff=0)
def wait_for_go(round: str) -> str:
    with (VAR / f"started-{round}").open("a") as file:
        file.write(current_job().id + chr(10))
    while not (VAR / f"go-{round}").exists():
        time.sleep(0.05)
    return socket.gethostname()


@app.post("/wait/<round>/<int:number>")
def wait(round: str, number: int) -> Response:
    return jsonify([wait_for_go(round).id for _ in range(number)])
"""

ASK = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=50)
connection.request(*sys.argv[1:])
answer = connection.getresponse()
print(answer.read().decode())
sys.exit(answer.status != 200)
"""


class Hosts:
    """The hosts of the compose file, with their commands running."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.cut, self.mend = network.cut, network.mend
        for host in network.hosts.values():
            # The code of the image; each service has a copy.
            for name in ("app.py", "uwsgi.ini"):
                text = (EXAMPLE / name).read_text()
                (host.folder / name).write_text(text + MORE if name == "app.py" else text)
            (host.var / "tmp").mkdir()
            command = list(map(str, SERVICES[host.name]["command"]))
            host.start(command, self._environment(host), host.var if host.name == "redis" else host.folder)

    def _environment(self, host: Host) -> dict[str, str]:
        """That of the image and of the service, with the address of the broker for its name."""
        given = {name: str(value) for name, value in SERVICES[host.name]["environment"].items()}
        if "BROKER_URL" in given:
            given["BROKER_URL"] = given["BROKER_URL"].replace("@redis:", f"@{self['redis'].address}:")
        if "SPOOLKIT_SPOOL" in given:
            given["SPOOLKIT_SPOOL"] = str(host.var / "spool")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        image = {"PATH": path, "FLASK_APP": "app", "PYTHONUNBUFFERED": "1", "TMPDIR": str(host.var / "tmp")}
        return {**image, "C_FORCE_ROOT": "1", "SPOOLKIT_CELERY_LOST": "3", **given}

    def __getitem__(self, name: str) -> Host:
        return self._network.hosts[name]

    def is_healthy(self, name: str) -> bool:
        """Whether the health check of the service succeeds on its host."""
        kind, *command = SERVICES[name]["healthcheck"]["test"]
        words = command if kind == "CMD" else ["sh", "-c", *command]
        host = self[name]
        done = host.run("sh", "-c", 'cd "$0" && exec "$@"', str(host.folder), *words, env=self._environment(host))
        return done.returncode == 0

    def ask(self, method: str, path: str) -> Any:
        """Ask the site over HTTP, from its own host."""
        done = self["site"].run(sys.executable, "-c", ASK, method, path)
        assert done.returncode == 0, (path, done.stdout, done.stderr, self["site"].log()[-3000:])
        return json.loads(done.stdout)

    def started(self, name: str, round: str) -> list[str]:
        """The jobs of this round that have been started on a host, those that were started twice twice."""
        path = self[name].var / f"started-{round}"
        return path.read_text().split() if path.exists() else []

    def go(self, name: str, round: str) -> None:
        (self[name].var / f"go-{round}").touch()

    def until_done(self, id: str) -> dict[str, Any]:
        def finished() -> dict[str, Any] | None:
            found: dict[str, Any] = self.ask("GET", f"/jobs/{id}")
            return found if found["state"] in ("done", "dead", "cancelled", "lost") else None

        return wait_until(finished, timeout=PATIENCE, message=self.logs)

    def logs(self) -> str:
        return "\n".join(f"== {name}\n{host.log()[-3000:]}" for name, host in self._network.hosts.items())


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if not is_installed("redis"):
        pytest.skip("redis is not installed")
    if reason := refusal():
        pytest.skip(f"this machine refuses network namespaces: {reason}")
    if shutil.which("uwsgi", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("uwsgi is not installed")
    with Network(tmp_path, list(SERVICES)) as network:
        hosts = Hosts(network)
        for name in SERVICES:  # a worker waits for its broker by itself
            wait_until(lambda name=name: hosts.is_healthy(name), timeout=PATIENCE, message=hosts.logs)
        yield hosts


def test_each_job_of_a_host_that_is_cut_off_runs_on_the_other_one(hosts: Hosts) -> None:
    assert (hosts["site"].var / "spool").is_dir()
    for name in ("worker1", "worker2", "redis"):
        assert hosts[name].run("ls", str(hosts["site"].folder)).stdout == "", "no host sees a file of another one"

    ids = hosts.ask("POST", "/wait/first/4")
    for name in ("worker1", "worker2"):
        # Two at once, so none has fetched a job that it has not started: that one would be published again after ten
        # minutes of silence.
        wait_until(lambda name=name: len(hosts.started(name, "first")) >= 2, timeout=PATIENCE, message=hosts.logs)
    hosts.cut("worker1")
    hosts.go("worker2", "first")
    found = [hosts.until_done(id) for id in ids]
    # Worker 1 is cut off, and none of its jobs has ended there: worker 2 has run them all.
    assert [(one["state"], one["result"]) for one in found] == [("done", "worker2")] * 4, hosts.logs()
    cut_off = set(hosts.started("worker1", "first"))
    assert cut_off <= set(hosts.started("worker2", "first"))
    assert all(one["attempt"] > 1 for one in found if one["id"] in cut_off)

    hosts.mend("worker1")
    hosts.go("worker1", "first")  # late: it ends what another host has ended
    again = hosts.ask("POST", "/wait/second/4")
    for name in ("worker1", "worker2"):
        wait_until(lambda name=name: hosts.started(name, "second"), timeout=PATIENCE, message=hosts.logs)
    for name in ("worker1", "worker2"):
        hosts.go(name, "second")
    assert [hosts.until_done(id)["state"] for id in again] == ["done"] * 4, hosts.logs()
    assert [hosts.ask("GET", f"/jobs/{id}")["result"] for id in ids] == ["worker2"] * 4
    sent = hosts["site"].var / "spool" / "sent"
    wait_until(lambda: not list(sent.rglob("uwsgi_spoolfile_*")), message=hosts.logs)
