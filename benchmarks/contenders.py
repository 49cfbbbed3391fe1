"""Who takes part, and how is each started: its consumers, its caller, and the file in which its jobs record runs?"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine, records
from spoolkit.uwsgi import recommended

PROJECT = Path(__file__).parents[1]
sys.path.append(str(PROJECT / "tests"))

from uwsgi_server import UwsgiServer, free_port, wait_until  # noqa: E402

CONSUMERS = 4

ANSWER = 300.0
"""Seconds that a caller gets for one order."""

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
    #: Finds the processes that run jobs.
    find: Callable[[], list[int]]
    #: The processes that run jobs, once ``warm_up`` has run.
    consumers: list[int] = field(default_factory=list)
    #: The processes of a broker.
    broker: list[int] = field(default_factory=list)
    #: The SQLite file that consumers and the caller share, where the caller writes to one.
    database: Path | None = None
    #: The HTTP server, where there is one.
    server: UwsgiServer | None = None
    #: The processor time of idle consumers and the broker, as a share of one core.
    idle: float = 0.0
    #: How many jobs that are due at once or soon were enqueued; the number of the next one.
    enqueued: int = 0

    def warm_up(self) -> None:
        """Run some jobs: the first ones load what a process loads once."""
        self.call(20 * CONSUMERS)
        self.wait()
        self.consumers = self.find()

    def call(self, count: int, **order: Any) -> dict[str, Any]:
        """Let the caller enqueue ``count`` more jobs."""
        answer = self.order({"first": self.enqueued, "count": count, "ran": records.count(self.file), **order})
        self.enqueued += answer["number"]
        return answer

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the consumers until the end of the block."""
        machine.pause(self.consumers)
        try:
            # A consumer that was stopped within a transaction keeps its lock on the database.
            while self.database and machine.locked(self.database):
                machine.resume(self.consumers)
                time.sleep(random.uniform(0, 0.2))
                machine.pause(self.consumers)
            yield
        finally:
            machine.resume(self.consumers)

    def pend(self, count: int) -> None:
        """Let the caller enqueue ``count`` jobs that are due in a day, and so do not run."""
        for first in range(0, count, 1000):
            number = min(1000, count - first)
            self.order({"first": NOT_DUE + first, "count": number, "delay": [86400.0, 90000.0]})
        used = self.cpu()
        time.sleep(2)
        self.idle = (self.cpu() - used) / 2

    def wait(self, timeout: float = 300) -> None:
        """Wait until as many jobs ran as were enqueued."""

        def short() -> str:
            return f"{records.count(self.file)} of {self.enqueued} jobs ran"

        wait_until(lambda: records.count(self.file) >= self.enqueued, timeout=timeout, message=short)

    def cpu_when_quiet(self, timeout: float = 60) -> float:
        """The processor time once the consumers are idle: after a job has run, its consumer still records its end.

        DBOS records the ends of hundreds of jobs after all of them have run. The stock spooler looks at all pending
        jobs every second.
        """
        until, used = time.monotonic() + timeout, self.cpu()
        while True:
            time.sleep(0.3)
            before, used = used, self.cpu()
            if used - before < 0.03 + 0.3 * self.idle or time.monotonic() > until:
                return used

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
    #: Whether it takes part where many delayed jobs are pending; to enqueue 50,000 takes others minutes.
    pending: bool = False


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
            yield Running(directory / "records", order, server.spooler_pids, server=server)

    return start


def program(
    site: str, python: Path, *consumers: str, redis: bool = True, ready: str = "", **variables: str
) -> Callable[[Path], AbstractContextManager[Running]]:
    """A library that has programs of its own as consumers.

    Args:
        site: The module of ``benchmarks.sites``.
        python: The interpreter of the environment that has the library.
        consumers: The commands that run jobs, each a program or a module of that environment.
        redis: Whether they need Redis; else they have a SQLite file.
        ready: What a consumer prints before jobs may be enqueued; empty: they may be enqueued at once.
        variables: More of the environment.
    """

    @contextmanager
    def start(directory: Path) -> Iterator[Running]:
        log = directory / "log"
        with ExitStack() as stack:

            def launch(*command: str | Path, **pipes: Any) -> subprocess.Popen[str]:
                return stack.enter_context(started(command, directory, log, env, **pipes))

            env = environment(directory, BENCH_SQLITE=str(directory / "jobs.db"), **variables)
            broker = []
            if redis:
                port = free_port()
                env["BENCH_REDIS"] = f"redis://127.0.0.1:{port}/0"
                # Nothing is written to the disk: this is as fast as Redis can be.
                server = launch(redis_server(), "--port", str(port), "--save", "", "--bind", "127.0.0.1")
                wait_until(lambda: _listens(port), message=log.read_text)
                broker = [server.pid]
            module = f"benchmarks.sites.{site}"
            running = [
                launch(*_command(python, text.format(module=module, redis=env.get("BENCH_REDIS"))))
                for text in consumers
            ]
            wait_until(lambda: ready in log.read_text(errors="replace"), message=log.read_text)
            caller = launch(
                python, "-m", "benchmarks.calling", module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

            def answer() -> Any:
                assert caller.stdout is not None
                answered = select.select([caller.stdout], [], [], ANSWER)[0]
                if not answered or not (line := caller.stdout.readline()):
                    raise RuntimeError(f"{site}: no answer\n{log.read_text(errors='replace')[-4000:]}")
                return json.loads(line)

            def order(given: dict[str, Any]) -> dict[str, Any]:
                assert caller.stdin is not None
                print(json.dumps(given), file=caller.stdin, flush=True)
                carried_out: dict[str, Any] = answer()
                return carried_out

            answer()
            yield Running(
                directory / "records",
                order,
                lambda: [pid for process in running for pid in machine.session(process.pid)],
                broker=broker,
                database=None if redis else directory / "jobs.db",
            )

    return start


def _command(python: Path, text: str) -> list[str | Path]:
    first, *rest = text.split()
    return [python, *rest] if first == "python" else [python.with_name(first), *rest]


@contextmanager
def started(
    command: Sequence[str | Path], directory: Path, log: Path, env: dict[str, str], **pipes: Any
) -> Iterator[subprocess.Popen[str]]:
    """A process with a session of its own, which is killed in the end."""
    with log.open("ab") as output:
        given = {"stdin": subprocess.DEVNULL, "stdout": output, **pipes}
        process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **env}, stderr=output, start_new_session=True, **given
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def redis_server() -> str:
    """The program in PATH.

    Raises:
        SystemExit: There is none; the message says what to install.
    """
    found = shutil.which("redis-server")
    if found is None:
        raise SystemExit("redis-server is not in PATH: apt-get install redis-server (or leave RIVALS empty)")
    return found


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


SPOOLKIT, STOCK, HUEY, CELERY = "spoolkit", "uwsgidecorators", "Huey, Redis", "Celery, Redis"

LAZY = [f"{name} = {value}" for name, value in recommended.RELOAD]
"""What ``flask spool ini`` prints: each process imports the application for itself."""


def contenders(base: str = "", rivals: str = "") -> list[Contender]:
    """spoolkit, the rivals that need nothing but uWSGI and, if an environment for them is given, the others.

    Args:
        base: Another checkout of this project, to compare with; empty: none.
        rivals: The virtual environment with the packages of requirements-rivals.txt; empty: none.
    """
    chosen = [
        Contender(SPOOLKIT, uwsgi("spoolkit_site"), pending=True),
        Contender("spoolkit, printed ini", uwsgi("spoolkit_site", *LAZY), ("memory",)),
        Contender(STOCK, uwsgi("uwsgidecorators_site"), pending=True),
        Contender("uwsgi-tasks", uwsgi("uwsgi_tasks_site"), pending=True),
    ]
    if base:
        other = uwsgi("spoolkit_site", PYTHONPATH=str(Path(base).resolve() / "src"))
        chosen.insert(1, Contender(f"spoolkit at {Path(base).resolve().name}", other, pending=True))
    if rivals:
        python = Path(rivals).absolute() / "bin" / "python"
        # Each worker fetches many jobs at a time, as Celery's manual advises for short ones.
        celery = f"celery -A {{module}} worker -c {CONSUMERS} --prefetch-multiplier 64 --loglevel WARNING"
        huey = f"huey_consumer {{module}}.huey -w {CONSUMERS} -k process -q"
        chosen += [
            Contender(CELERY, program("celery_site", python, celery)),
            Contender(
                "RQ, Redis",
                program("rq_site", python, *["rq worker bench -u {redis} -w rq.SimpleWorker -q -s"] * CONSUMERS),
            ),
            Contender(HUEY, program("huey_site", python, huey), pending=True),
            Contender("Huey, SQLite", program("huey_site", python, huey, redis=False)),
            Contender("Dramatiq, Redis", program("dramatiq_site", python, f"dramatiq {{module}} -p {CONSUMERS} -t 1")),
            Contender(
                "taskito, SQLite",
                program("taskito_site", python, "taskito worker --app {module}:queue", redis=False),
            ),
            Contender(
                "DBOS, SQLite",
                program("dbos_site", python, "python -m {module}", redis=False, ready="ready"),
            ),
        ]
    return chosen
