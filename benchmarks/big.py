"""What does a spool directory with very many jobs cost? Delayed and due ones, each beside an empty directory.

    .venv/bin/python -m benchmarks.big [JOBS]

Prints the milliseconds of processor time of each step, the best of three, and how much more that is than with an empty
directory. Processor time, because the load of other processes hardly changes it. The line of a command is what it takes
beyond a ``flask`` command that does nothing.
"""

from __future__ import annotations

import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from flask import Flask

from benchmarks import machine
from benchmarks.figures import markdown, number
from spoolkit import SpoolKit, spool
from spoolkit.api import jobs_blueprint
from spoolkit.encoding import packet
from spoolkit.job import JobSpec
from spoolkit.spooldir import later, mover, spoolfile
from spoolkit.spooling import handler

CALLS = 300
"""Jobs that are enqueued."""

IDLE = 3.0
"""Seconds for which the process that moves delayed jobs in has nothing to do."""


@spool(name="nothing")
def nothing(word: str) -> None: ...


def create_app() -> Flask:
    """The site of the commands; ``SPOOLKIT_SPOOL`` in the environment names its spool directory."""
    app = Flask("big")
    SpoolKit(app)
    app.register_blueprint(jobs_blueprint(listing=True))
    app.cli.command("nothing")(lambda: None)
    return app


def fill(folder: str, jobs: int, run_at: float) -> None:
    """Write files of jobs, as fast as possible: nobody looks yet."""
    os.makedirs(folder, 0o700, exist_ok=True)
    now, times = time.time_ns(), spoolfile.ns_of(run_at)
    for n in range(jobs):
        id = f"{now - n * 1000:016x}{secrets.token_hex(8)}"
        job = JobSpec(id, f"tasks.number_{n % 7}", ("a word",), enqueued_at=now / 1e9, run_at=run_at)
        path = os.path.join(folder, f"{spoolfile.PREFIX}{id}")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(fd, packet.dump(packet.pack(job, max_body=1000)))
        os.close(fd)
        os.utime(path, ns=times)


def cpu(work: Callable[[], object]) -> float:
    """The milliseconds of processor time of ``work`` in a process of its own, and of the processes that it starts."""
    if (pid := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise RuntimeError("a step failed")
    return (used.ru_utime + used.ru_stime) * 1000


def own_cpu() -> float:
    """The milliseconds of processor time of this process until now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1000


def flask(*words: str) -> Callable[[], object]:
    """Run a command."""
    command = [sys.executable, "-m", "flask", "--app", "benchmarks.big", *words]
    return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def steps(spool_dir: str) -> dict[str, float]:
    """Measure everything in one directory."""
    app = create_app()

    def get(path: str) -> Callable[[], object]:
        def ask() -> None:
            assert app.test_client().get(path).status_code == 200

        return ask

    def enqueue(**options: float) -> Callable[[], object]:
        def call() -> None:
            with app.app_context():
                for _ in range(CALLS):
                    nothing.using(**options)("word")

        return call

    def least(work: Callable[[], object], beyond: float = 0.0) -> float:
        return min(cpu(work) for _ in range(3)) - beyond

    def moving() -> None:
        one = mover.Mover(spool_dir)
        while one.step() == 0.0:
            pass  # it reads the folder in slices
        one.close()

    empty, nothing_done = least(flask("nothing")), least(lambda: None)
    found = {"a flask command that does nothing": empty}
    for words in (("stats",), ("ls",), ("ls", "--state", "dead"), ("ls", "--task", "none")):
        found[" ".join(["flask", "spool", *words])] = least(flask("spool", *words), empty)
    for path in ("/jobs", "/jobs?task=none"):
        found[f"GET {path}"] = least(get(path), nothing_done)
    found["start of a spooler"] = least(lambda: handler.start(spool_dir), nothing_done)
    found["start of the mover"] = least(moving, nothing_done)
    found["idle mover, a second"] = idle(spool_dir)
    found[f"{CALLS} calls"] = least(enqueue(), nothing_done)
    found[f"{CALLS} delayed calls"] = least(enqueue(delay=1000), nothing_done)
    return found


def idle(spool_dir: str) -> float:
    """The processor time that the process which moves delayed jobs takes per second, while none is due."""
    one = mover.Mover(spool_dir)
    while one.step() == 0.0:
        pass
    began, until = own_cpu(), time.monotonic() + IDLE
    while time.monotonic() < until:
        mover.wait([one], one.step())
    one.close()
    return (own_cpu() - began) / IDLE


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    results: dict[str, dict[str, float]] = {}
    for name in ("empty", f"{jobs:,} delayed", f"{jobs:,} due"):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=machine.directory()) as folder:
            spool_dir = os.environ["SPOOLKIT_SPOOL"] = os.path.join(folder, "spool")
            os.mkdir(spool_dir, 0o700)
            if name.endswith("delayed"):
                fill(os.path.join(spool_dir, later.FOLDER), jobs, time.time() + 86400)
            elif name.endswith("due"):
                fill(spool_dir, jobs, time.time() - 60)
            results[name] = steps(spool_dir)
    base = results["empty"]
    rows = [["ms of processor time", *results]]
    for step in base:
        cells = [f"{number(found[step])} ({number(found[step] - base[step])} more)" for found in results.values()]
        rows.append([step, *cells])
    print(markdown(rows))


if __name__ == "__main__":
    main()
