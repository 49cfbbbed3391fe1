"""Every way in which an attempt can end, on a real uWSGI: each job ends as promised, and none is lost or runs twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from flask import Flask
from uwsgi_server import UwsgiServer, wait_until

from spoolkit import SpoolKit, lookup, tracking
from spoolkit.job import State
from spoolkit.lookup import Details

from .conftest import SITE, Event, History, Site

DONE, DEAD = State.DONE, State.DEAD
SPOOLERS = (1, 4)
INNOCENT = 12


class Row(NamedTuple):
    """A task, the state in which its job ends, how each of its attempts does, and what is said of the last."""

    task: str
    state: State
    endings: tuple[str, ...]
    error: str | None = None


MATRIX = (
    Row("raises", DEAD, ("failed",) * 3, "ValueError"),
    Row("raises_twice", DONE, ("failed", "failed", "done")),
    Row("returns_retry", DEAD, ("retry",) * 3),
    Row("raises_retry", DEAD, ("retry",) * 3, "Retry"),
    Row("aborts", DEAD, ("aborted",), "Abort"),
    Row("exits", DEAD, ("failed",) * 3, "SystemExit"),
    Row("interrupted", DEAD, ("failed",) * 3, "KeyboardInterrupt"),
    Row("out_of_memory", DEAD, ("failed",) * 3, "MemoryError"),
    Row("kills_itself", DEAD, ("crashed",) * 3),
    Row("segfaults", DEAD, ("crashed",) * 3, "Segmentation fault"),
    Row("dumps_core", DEAD, ("crashed",) * 3, "Aborted"),
    Row("exits_at_once", DEAD, ("crashed",) * 3),
    Row("sleeps_too_long", DEAD, ("timeout",) * 3, "JobTimeout"),
    Row("goes_on_after_its_timeout", DEAD, ("timeout",) * 2, "JobTimeout"),
    Row("counts_in_c", DEAD, ("timeout",) * 2, "JobTimeout"),
    Row("opens_its_own_file", DONE, ("done",)),
    Row("waits_for_its_killer", DONE, ("crashed", "done")),
)


@dataclass(frozen=True)
class Ran:
    """What became of one job: what spoolkit says, what its task wrote down, where its file lies."""

    id: str
    details: Details
    events: list[Event]
    waits: bool
    dead: bool

    @property
    def starts(self) -> list[Event]:
        return [event for event in self.events if event.words[0] == "start"]


@contextmanager
def serving(directory: Path, spoolers: int, spool: Path | None = None, **env: str) -> Iterator[Site]:
    """The site of ``kill_tasks``, in a directory of its own."""
    directory.mkdir(exist_ok=True)
    spool = spool or directory / "spool"
    history = History(directory / "history")
    options = [
        "master = true",
        "enable-threads = true",
        "need-app = true",
        "processes = 1",
        f"pythonpath = {SITE}",
        f"chdir = {SITE}",
        "module = kill_tasks:app",
        f"spooler-processes = {spoolers}",
        "spooler-frequency = 1",
        f"spooler = {spool}",
    ]
    given = {"HISTORY": str(history.path), "PYTHONPATH": str(SITE), "PYTHONUNBUFFERED": "1", **env}
    with UwsgiServer(directory, options=options, env=given, spool=spool) as server:
        yield Site(server, history)


@contextmanager
def looking_at(site: Site) -> Iterator[None]:
    """Within it, spoolkit looks at the jobs of ``site``."""
    app = Flask("onlooker")
    app.config["SPOOLKIT_SPOOL"] = site.spool
    SpoolKit(app)
    with app.app_context():
        yield
        tracking.store().close()


def settled(site: Site, ids: list[str], timeout: float = 60) -> list[Ran]:
    """The jobs, once each is over."""

    def over(id: str) -> bool:
        found = lookup.details(id)
        return found.status.finished_at is not None and all(one.finished_at for one in found.attempts)

    site.wait_empty(timeout)
    with looking_at(site):
        wait_until(lambda: all(map(over, ids)), message=lambda: f"not over: {[id for id in ids if not over(id)]}")
        return [read(site, id) for id in ids]


def read(site: Site, id: str) -> Ran:
    events = [event for event in site.history.events() if event.words[1] == id]
    waits, dead = (any(id in name for name in names) for names in (site.files(), site.dead()))
    return Ran(id, lookup.details(id), events, waits, dead)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], list[Ran]]:
    """All rows at once, on a server with one spooler and on one with four: by spoolers and task."""
    folder = tmp_path_factory.mktemp("matrix")
    made: dict[tuple[int, str], list[str]] = {}
    ran: dict[tuple[int, str], list[Ran]] = {}
    with ExitStack() as running:
        sites = {n: running.enter_context(serving(folder / str(n), n, SPOOLKIT_TIMEOUT_GRACE="0.5")) for n in SPOOLERS}
        for n, site in sites.items():
            for at, row in enumerate(MATRIX):
                made[n, row.task] = [site.call(row.task)["job"]]
                made.setdefault((n, "innocent"), []).append(site.call("innocent", 0.01 * (at % 3))["job"])
        for n, site in sites.items():
            (start,) = site.history.wait_for("start", *made[n, "waits_for_its_killer"], timeout=60)
            os.kill(start.pid, signal.SIGKILL)
        for n, site in sites.items():
            mine = {key: ids for key, ids in made.items() if key[0] == n}
            jobs = {job.id: job for job in settled(site, [id for ids in mine.values() for id in ids])}
            ran.update({key: [jobs[id] for id in ids] for key, ids in mine.items()})
    return ran


EACH = [pytest.param(n, row, id=f"{row.task}-{n}") for n in SPOOLERS for row in MATRIX]


@pytest.mark.parametrize(("spoolers", "row"), EACH)
def test_it_ends_as_promised_after_the_attempts_it_may_have(
    matrix: dict[tuple[int, str], list[Ran]], spoolers: int, row: Row
) -> None:
    (job,) = matrix[spoolers, row.task]
    attempts, status = job.details.attempts, job.details.status
    assert tuple(attempt.outcome for attempt in attempts) == row.endings, job
    assert status.state is row.state
    assert status.attempt == len(row.endings)
    assert [attempt.pid for attempt in attempts] == [start.pid for start in job.starts]
    if row.error is not None:
        assert status.error_type == row.error
