"""Jobs under limits, run by processes of which one after the other is killed: never too many at once, none is left.

``LIMIT_JOBS``: how many jobs.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from flask import Flask
from life_process import start_child

from spoolkit import Limit, SpoolKit, spool
from spoolkit.lifecycle import sweeping
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations

KEYS, NUMBER, PROCESSES = 5, 2, 4

history = Path()
"""A line for each start and end of a job, and for each kill: the order of the lines is the order of the events.

A job writes its first line after its claim and its last one before its end is recorded. So it holds its place for
longer than these lines say. To look at files of running jobs is not enough: while the third file is looked at, the job
of the first one may have ended.
"""

name = ""
"""That of this process: a pid may be used again."""


def write(*words: object) -> None:
    fd = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


@spool(limit=Limit(NUMBER, key=lambda key: key), retries=1000, backoff=0.01)
def limited(key: int) -> None:
    write("start", name, key)
    time.sleep(random.choice((0, 0, 0.002)))
    write("end", name, key)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    global history
    history = tmp_path / "history"
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    (tmp_path / "spool").mkdir(mode=0o700)
    with app.app_context():
        yield app


def storm(app: Flask, count: int, seconds_between_kills: float) -> None:
    """Run so many jobs, a thousand of them at a time, and kill one process after the other."""
    spool_dir, dice = str(app.config["SPOOLKIT_SPOOL"]), random.Random(count)
    names: dict[int, str] = {}

    def work() -> None:
        sweeping.run(spool_dir)  # as at the start of a spooler
        spooler = Spooler(spool_dir)
        while spoolfile.pending(spool_dir, 1):
            spooler.run_due()
            time.sleep(0.001)

    def named(number: int) -> None:
        global name
        name = str(number)
        work()

    number, left = 0, count
    next_kill, deadline = time.monotonic(), time.monotonic() + 120 + count / 10
    while left or names or spoolfile.pending(spool_dir, 1):
        assert time.monotonic() < deadline, spoolfile.pending(spool_dir, 10)
        if left and len(spoolfile.pending(spool_dir, 500)) < 500:
            batch = min(left, 500)
            limited.map(sorted((dice.randrange(KEYS),) for _ in range(batch)))
            left -= batch
        while len(names) < PROCESSES and spoolfile.pending(spool_dir, 1):
            names[start_child(partial(named, number))] = str(number)
            number += 1
        if names and time.monotonic() > next_kill and history.exists():
            pid = dice.choice(list(names))
            write("killed", names[pid], "-")  # first: from here on, it does not matter what this process writes
            os.kill(pid, signal.SIGKILL)
            next_kill = time.monotonic() + dice.uniform(0, 2 * seconds_between_kills)
        for pid in list(names):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del names[pid]
        time.sleep(0.002)


def check(count: int) -> int:
    """How many processes were killed."""
    runs: dict[str, set[str]] = {str(key): set() for key in range(KEYS)}
    killed: set[str] = set()
    for line in history.read_text().splitlines():
        what, process, key = line.split()
        if what == "killed":
            killed.add(process)
            for beside in runs.values():
                beside.discard(process)
        elif process not in killed:
            (runs[key].add if what == "start" else runs[key].discard)(process)
            assert len(runs[key]) <= NUMBER, line
    found = locations.store().read("SELECT state, count(*) AS n FROM jobs GROUP BY state")
    assert {row["state"]: row["n"] for row in found} == {"done": count}
    return len(killed)


def test_jobs_stay_within_their_limits_while_processes_are_killed(app: Flask) -> None:
    storm(app, 150, 0.05)
    check(150)


@pytest.mark.matrix
def test_many_jobs_stay_within_their_limits_while_processes_are_killed(app: Flask) -> None:
    count = int(os.environ.get("LIMIT_JOBS", "10000"))
    storm(app, count, 0.3)
    assert check(count) > 0
