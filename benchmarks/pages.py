"""How long does each page of the dashboard take with 100,000 jobs in the store, and the answer to a refresh?

    .venv/bin/python -m benchmarks.pages [JOBS]

Of the jobs, one in fifty is dead, with a file and a traceback, one in fifty waits with a file, the others are done, of
seven tasks, within the last day. Prints for each page the milliseconds from the request to the whole answer, half and
95 of 100 of them within that time, the milliseconds of processor time, and whether the bar is reached: 200 ms for a
page, 10 ms for a refresh while nothing has changed. On a busy machine only the processor time says something.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient

from benchmarks import machine
from benchmarks.figures import markdown, number, percentile
from spoolkit import SpoolKit, periodic, spool
from spoolkit.admin import changes
from spoolkit.dashboard import ALL_RIGHTS, Access, dashboard_blueprint
from spoolkit.encoding import codec, packet
from spoolkit.job import JobSpec, State
from spoolkit.spooldir import dead, spoolfile
from spoolkit.store import locations, rows

ROUNDS = 40
"""How often each page is asked for, after once that does not count."""

PAGE, REFRESH = 200.0, 10.0
"""The bars: milliseconds within which 95 of 100 answers must be there."""

DAY = 86400.0

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/tasks.py", line {line}, in charge
    card.charge(order)
  File "/srv/shop/cards.py", line 88, in charge
    raise Refused(order)
Refused: the card of order {order} was refused
"""


@periodic(every=3600)
@spool(name="shop.nightly")
def nightly() -> None: ...


def charge(order: int) -> None: ...


for kind in range(7):
    spool(name=f"shop.task_{kind}")(charge)


@dataclass(frozen=True)
class Figure:
    """What one page took, in milliseconds."""

    #: What was asked for.
    what: str
    #: Each answer.
    taken: list[float]
    #: The processor time of each.
    cpu: list[float]
    #: The most that 95 of 100 answers may take.
    bar: float
    #: The bytes of the answer.
    size: int

    def cells(self) -> list[str]:
        p95 = percentile(self.taken, 95)
        times = [percentile(self.taken, 50), p95, percentile(self.cpu, 50)]
        return [self.what, *map(number, times), f"{self.size:,}", "yes" if p95 <= self.bar else f"no: {self.bar:.0f}"]


def create_app(spool_dir: str) -> Flask:
    app = Flask("pages")
    app.config["SPOOLKIT_SPOOL"] = spool_dir
    SpoolKit(app)
    app.register_blueprint(dashboard_blueprint(lambda request: Access("bench", ALL_RIGHTS)), url_prefix="/spool")
    return app


def fill(spool_dir: str, jobs: int) -> None:
    """Make the jobs. In the context of the application."""
    now, chance = time.time(), random.Random(7)
    with locations.store().transaction() as db:
        for n in range(jobs):
            at = now - DAY * (jobs - n) / jobs
            id = f"{int(at * 1e9):016x}{secrets.token_hex(8)}"
            task = f"shop.task_{n % 7}"
            if n % 50 == 0:
                _dead(db, spool_dir, JobSpec(id, task, (n,), enqueued_at=at), at, n)
            elif n % 50 == 1:
                due = now + DAY * chance.random() if n % 100 == 1 else now - 60
                job = JobSpec(id, task, (n,), enqueued_at=at, run_at=due)
                spoolfile.write(spool_dir, id, packet.dump(packet.pack(job, max_body=1000)), run_at=due)
            else:
                ended = at + chance.expovariate(2)
                columns = {"task": task, "engine": "spool", "enqueued_at": at, "started_at": at + 0.01, "attempt": 1}
                taken = {"cpu": chance.random() / 10, "memory": 60_000_000, "result": f'"{n}"'.encode()}
                rows.insert(db, id, State.DONE, ended, {**columns, **taken})


def _dead(db: sqlite3.Connection, spool_dir: str, job: JobSpec, at: float, n: int) -> None:
    path = spoolfile.write(spool_dir, job.id, packet.dump(packet.pack(job, max_body=1000)))
    dead.quarantine(path, spool_dir, reason="the card was refused", task=job.task)
    message = f"the card of order {n} was refused"
    columns = {
        "task": job.task,
        "engine": "spool",
        "enqueued_at": at,
        "started_at": at,
        "attempt": 1,
        "max_attempts": 1,
        "file": os.path.basename(path),
        "error_type": "Refused",
        "error_message": message,
        "ending": "failed",
        "arguments": codec.encode_call(job.args, dict(job.kwargs)),  # as the claim of a job keeps them
    }
    detail = {"type": "Refused", "message": message, "traceback": TRACEBACK.format(line=n % 20, order=n)}
    events = [
        rows.event(at, "started", 1, detail={"pid": 1}),
        rows.event(at + 0.1, "failed", 1, 0.1, detail, log=f"charging order {n}\n" * 20),
    ]
    rows.insert(db, job.id, State.DEAD, at + 0.1, columns, *events)


def paths(client: FlaskClient) -> list[str]:
    """The pages, each with filters that need no index, and others."""

    def linked(path: str, pattern: str) -> str:
        found = re.findall(f'href="/spool({pattern})"', client.get(f"/spool{path}").text)
        if not found:
            raise RuntimeError(f"no link on {path} fits {pattern}")
        return str(found[-1])

    job, older = r"/jobs/[0-9a-f]{32}", r"/jobs\?before=\w+"
    return [
        "/",
        "/jobs",
        linked("/jobs", older),
        "/jobs?q=state:done",
        "/jobs?q=state:dead",
        "/jobs?q=task:shop.task_3",
        "/jobs?q=task:none",
        "/jobs?q=error:order",
        "/jobs?q=queue:default",
        "/jobs?q=arg.0:77",
        linked("/jobs?q=state:done", job),
        linked("/jobs?q=state:dead", job),
        linked("/jobs?q=state:dead", job) + "/edit",
        "/dead",
        linked("/dead", "/dead/[^/]+"),
        "/periodic",
        "/queues",
        "/tasks",
        "/doctor",
        "/metrics",
        "/health/ready",
    ]


def measured(client: FlaskClient, path: str, *, version: str = "", status: int = 200, bar: float = PAGE) -> Figure:
    taken, cpu = [], []
    headers = {"HX-Request": "true", "If-None-Match": version} if version else {}
    for _ in range(ROUNDS + 1):
        began, used = time.perf_counter(), time.process_time()
        answer = client.get(f"/spool{path}", headers=headers)
        taken.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - used) * 1000)
        if answer.status_code not in (status, 503 if path == "/health/ready" else status):
            raise RuntimeError(f"GET {path}: {answer.status}")
    what = f"{path}, refresh" if version else re.sub("[0-9a-f]{20,}", "<id>", path)
    return Figure(what, taken[1:], cpu[1:], bar, len(answer.data))


def refresh(client: FlaskClient, path: str) -> Figure:
    """The answer while nothing has changed. It counts only where all were of one version, which lasts some seconds."""
    for _ in range(10):
        version = client.get(f"/spool{path}").headers["X-Spoolkit-Version"]
        try:
            return measured(client, path, version=version, status=204, bar=REFRESH)
        except RuntimeError:
            time.sleep(changes.SETTLED)
    raise RuntimeError(f"{path} changed again and again")


def main() -> int:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(prefix="bench-", dir=machine.directory()) as folder:
        spool_dir = str(Path(folder) / "spool")
        Path(spool_dir).mkdir(mode=0o700)
        app = create_app(spool_dir)
        with app.app_context():
            fill(spool_dir, jobs)
        client = app.test_client()
        figures = [measured(client, path) for path in paths(client)]
        figures += [refresh(client, path) for path in ("/", "/jobs", "/dead")]
    head = ["page", "ms, half within", "ms, 95 % within", "ms of processor", "bytes", "within the bar"]
    print(f"{jobs:,} jobs\n\n{markdown([head, *(figure.cells() for figure in figures)])}")
    return any(percentile(figure.taken, 95) > figure.bar for figure in figures)


if __name__ == "__main__":
    sys.exit(main())
