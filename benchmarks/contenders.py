"""Who takes part, and how is each started: its consumers, its caller, and the file in which its jobs record runs?"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine, records
from spoolkit.uwsgi import recommended

PROJECT = Path(__file__).parents[1]
sys.path.append(str(PROJECT / "tests"))

from uwsgi_server import UwsgiServer, wait_until  # noqa: E402

CONSUMERS = 4

NOT_DUE = 1_000_000_000
"""From this number on, jobs are due in a day."""

Order = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Running:
    """A contender that runs: its consumers wait for jobs."""

    #: The file of records.
    file: Path
    #: Passes an order on to the caller, and gives its answer.
    order: Order
    #: The processes that run jobs.
    consumers: list[int]
    #: The processes of a broker.
    broker: list[int] = field(default_factory=list)
    #: The HTTP server, where there is one.
    server: UwsgiServer | None = None
    #: How many jobs that are due at once or soon were enqueued; the number of the next one.
    enqueued: int = 0

    def call(self, count: int, **order: Any) -> dict[str, Any]:
        """Let the caller enqueue ``count`` more jobs."""
        answer = self.order({"first": self.enqueued, "count": count, "ran": records.count(self.file), **order})
        self.enqueued += answer["number"]
        return answer

    def pend(self, count: int) -> None:
        """Let the caller enqueue ``count`` jobs that are due in a day, and so do not run."""
        for first in range(0, count, 1000):
            number = min(1000, count - first)
            self.order({"first": NOT_DUE + first, "count": number, "delay": [86400.0, 90000.0]})

    def wait(self, timeout: float = 300) -> None:
        """Wait until as many jobs ran as were enqueued."""

        def short() -> str:
            return f"{records.count(self.file)} of {self.enqueued} jobs ran"

        wait_until(lambda: records.count(self.file) >= self.enqueued, timeout=timeout, message=short)

    def verdict(self, timeout: float = 10) -> str:
        """What is wrong with the number of runs: empty if each job ran exactly once. Missing runs get some time."""
        until = time.monotonic() + timeout
        while True:
            wrong = records.verdict((run.number for run in records.read(self.file)), range(self.enqueued))
            if "did not run" not in wrong or time.monotonic() > until:
                return wrong
            time.sleep(0.05)

    def cpu(self) -> float:
        """The processor time of the consumers and the broker until now, in seconds."""
        return machine.cpu_seconds(self.consumers + self.broker)


@dataclass(frozen=True)
class Contender:
    """One library, with the way to start it."""

    #: The name in the report.
    name: str
    #: Starts it with its files in a directory.
    start: Callable[[Path], AbstractContextManager[Running]]
    #: The measures that it takes part in; empty: in all.
    measures: tuple[str, ...] = ()


def environment(directory: Path, **more: str) -> dict[str, str]:
    """The environment of a caller and of consumers."""
    path = os.pathsep.join(filter(None, [more.pop("PYTHONPATH", ""), str(PROJECT)]))
    return {records.VARIABLE: str(directory / "records"), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


def uwsgi(site: str, *options: str, **variables: str) -> Callable[[Path], AbstractContextManager[Running]]:
    """A site on uWSGI with its spoolers; the caller is its HTTP process."""

    @contextmanager
    def start(directory: Path) -> Iterator[Running]:
        spool = directory / "spool"
        given = [
            "master = true",
            "processes = 1",
            "enable-threads = true",
            "need-app = true",
            "disable-logging = true",
            "buffer-size = 32768",
            f"module = benchmarks.sites.{site}:app",
            f"spooler-processes = {CONSUMERS}",
            f"spooler = {spool}",
            "spooler-frequency = 1",
            "spooler-quiet = true",
            *options,
        ]
        env = environment(directory, **variables)
        with UwsgiServer(directory, options=given, env=env, spool=spool, cwd=directory) as server:

            def order(given: dict[str, Any]) -> dict[str, Any]:
                answer = server.request("POST", "/order", json.dumps(given), {"Content-Type": "application/json"})
                if answer.status != 200:
                    raise RuntimeError(f"{site}: {answer.status}\n{server.log()[-4000:]}")
                carried_out: dict[str, Any] = answer.json
                return carried_out

            wait_until(lambda: len(server.spooler_pids()) == CONSUMERS, message=server.log)
            yield Running(directory / "records", order, server.spooler_pids(), server=server)

    return start


SPOOLKIT = "spoolkit"

LAZY = [f"{name} = {value}" for name, value in recommended.RELOAD]
"""What ``flask spool ini`` prints: each process imports the application for itself."""


def contenders(base: str = "") -> list[Contender]:
    """spoolkit, and the rivals that need nothing but uWSGI.

    Args:
        base: Another checkout of this project, to compare with; empty: none.
    """
    chosen = [
        Contender(SPOOLKIT, uwsgi("spoolkit_site")),
        Contender("spoolkit, printed ini", uwsgi("spoolkit_site", *LAZY), ("memory",)),
        Contender("uwsgidecorators", uwsgi("uwsgidecorators_site")),
        Contender("uwsgi-tasks", uwsgi("uwsgi_tasks_site")),
    ]
    if base:
        other = uwsgi("spoolkit_site", PYTHONPATH=str(Path(base).resolve() / "src"))
        chosen.insert(1, Contender(f"spoolkit at {Path(base).resolve().name}", other))
    return chosen
