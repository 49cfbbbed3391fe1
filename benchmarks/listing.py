"""The cost of listing many jobs, over HTTP and by commands: many jobs are waiting, and as many are recorded as done.

    .venv/bin/python benchmarks/listing.py [JOBS]

Prints for each the milliseconds of processor time, the best of three, and the number of spool files opened. Processor
time, because the load of other processes does not change it.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask

from spoolkit import SpoolKit, application
from spoolkit.admin import lookup, stats
from spoolkit.api import jobs_blueprint
from spoolkit.cli import watch
from spoolkit.encoding import packet
from spoolkit.job import JobSpec, State
from spoolkit.spooldir import spoolfile
from spoolkit.store import locations, retention


def fill(directory: str, jobs: int) -> None:
    """Make ``jobs`` files of waiting jobs, and as many records of done jobs."""
    now, rows = time.time(), []
    for number in range(jobs):
        at = now - (jobs - number) / 1000
        id, task = f"{int(at * 1e9):016x}{secrets.token_hex(8)}", f"tasks.number_{number % 7}"
        job = JobSpec(id, task, (number,), enqueued_at=at, run_at=now + 86400)
        spoolfile.write(directory, id, packet.dump(packet.pack(job, max_body=1000)), run_at=now + 86400)
        rows.append((f"{int(at * 1e9) + 1:016x}{secrets.token_hex(8)}", task, at, at, at + 0.1))
    with locations.store().transaction() as db:
        db.executemany(
            "INSERT INTO jobs (id, task, engine, state, attempt, base, enqueued_at, started_at, finished_at, result)"
            " VALUES (?, ?, 'spool', 'done', 1, 0, ?, ?, ?, CAST('"
            " || hex(zeroblob(250)) || "
            "' AS BLOB))",
            rows,
        )


def main(jobs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        app = Flask("bench")
        app.config["SPOOLKIT_SPOOL"] = directory = str(Path(name) / "spool")
        Path(directory).mkdir(mode=0o700)
        SpoolKit(app)
        app.register_blueprint(jobs_blueprint(listing=True))
        opened, peek = [], spoolfile.peek
        spoolfile.peek = lambda path, size=-1: (opened.append(path), peek(path, size))[1]  # type: ignore[assignment]
        get = app.test_client().get
        with app.app_context():
            fill(directory, jobs)
            store, config = locations.store(), application.settings()
            one = lookup.jobs(limit=1, states=(State.QUEUED,))[0].id
            cases: dict[str, Callable[[], object]] = {
                "GET /jobs/<id>": lambda: get(f"/jobs/{one}"),
                "GET /jobs/00": lambda: get("/jobs/00"),
                "GET /jobs/<unknown id>": lambda: get(f"/jobs/{'0' * 32}"),
                "GET /jobs": lambda: get("/jobs"),
                "GET /jobs?task=none": lambda: get("/jobs?task=none"),
                "GET /jobs?state=done": lambda: get("/jobs?state=done"),
                "flask spool ls": lambda: lookup.jobs(limit=51),
                "flask spool ls --task none": lambda: lookup.jobs(task="none", limit=51),
                "flask spool ls --state dead": lambda: lookup.jobs(states=(State.DEAD,), limit=51),
                "flask spool stats": stats.gather,
                "flask spool watch, one refresh": watch._refresh,
                "retention, one pass": lambda: retention.delete_dead(
                    store, directory, time.time() - config.keep_dead, 200
                ),
            }
            print(f"{jobs} jobs are waiting, {jobs} are done")
            for what, call in cases.items():
                best = float("inf")
                for _ in range(3):
                    opened.clear()
                    started = time.process_time()
                    call()
                    best = min(best, time.process_time() - started)
                print(f"{what:30} {best * 1000:8.1f} ms {len(opened):8} files opened")
            store.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
