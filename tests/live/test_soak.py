"""Jobs without end, while the site is reloaded and spoolers are killed: each is done, none runs twice at once.

Once with one task, and once with all that spoolkit has at the same time, on uWSGI and beside gunicorn.

For 20 seconds in ``make matrix``; ``SOAK_SECONDS=300 make soak`` for as long as you like.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from any_server import CommandServer, wait_for_exit
from sampling import sampled
from uwsgi_server import UwsgiServer, wait_until

from spoolkit.spooldir import spoolfile
from spoolkit.store import Store

from .conftest import SITE, Event, History, environment_in
from .draining import deployed

GIVEN = os.environ.get("SOAK_SECONDS")
SECONDS = [float(GIVEN)] if GIVEN else sampled([20.0])
JOBS_EVERY = 0.25
DURATIONS = (0.005, 0.02, 0.1, 0.3, 1.0, 3.0)
SPOOLERS = 4
LIMIT = 2  # that of soak_site.py

chance = random.Random(int.from_bytes(os.urandom(4)))


@dataclass
class Soak:
    """What the test did to the site."""

    ids: list[str] = field(default_factory=list)
    killed: dict[int, float] = field(default_factory=dict)
    """When each process was killed: unix time just before the kill."""
    reloads: int = 0
    most_spoolers: int = 0

    def kill_one_of(self, spoolers: Callable[[], list[int]]) -> None:
        """Kill a spooler as soon as there is one: on a busy machine a restart takes long."""

        def killed() -> bool:
            if not (pids := spoolers()):
                return False
            victim, now = chance.choice(pids), time.time()
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:  # a reload has just ended it
                return False
            self.killed[victim] = now
            return True

        wait_until(killed, message="no spooler was there to be killed")

    def count(self, spoolers: list[int]) -> None:
        self.most_spoolers = max(self.most_spoolers, len(spoolers))


@pytest.mark.timeout(float(GIVEN or 20) + 300)
@pytest.mark.parametrize("seconds", SECONDS)
def test_each_job_is_done_once_while_the_site_reloads_and_spoolers_are_killed(tmp_path: Path, seconds: float) -> None:
    soak = Soak()
    # With a single thread, uWSGI drops a connection that it has just accepted when it is asked to exit.
    with deployed(tmp_path, "threads", spoolers=SPOOLERS) as site:
        site.wait_until_up()

        def reload() -> None:
            site.signal(signal.SIGHUP)
            soak.reloads += 1

        reload_every, kill_every = pauses(seconds)
        run(
            seconds,
            (JOBS_EVERY, lambda: soak.ids.append(site.site.call("sturdy", chance.choice(DURATIONS))["job"])),
            (reload_every, reload),
            (kill_every, partial(soak.kill_one_of, site.jobs.spooler_pids)),
            (0.2, lambda: soak.count(site.jobs.spooler_pids())),
        )
        wait_until(
            lambda: {event.words[1] for event in site.site.history.events("end")} >= set(soak.ids),
            timeout=60,
            message=lambda: site.jobs.log()[-4000:],
        )
        site.site.wait_empty(30)
        assert site.site.dead() == {}
        events = site.site.history.events()
        outcomes = {id: site.endings(id) for id in soak.ids}
    assert soak.most_spoolers <= 2 * SPOOLERS
    starts, ends, under_kill = account(events, soak)
    for id, recorded in outcomes.items():
        assert (recorded[-1], recorded.count("done")) == ("done", 1), (id, recorded)
    print(
        f"{len(soak.ids)} jobs, {soak.reloads} reloads, {len(soak.killed)} spoolers killed, {under_kill} under a job; "
        f"{starts} starts, {ends} ends"
    )
    assert soak.reloads >= min(seconds // 8, 2)
    assert len(soak.killed) >= min(seconds // 6, 3)


def pauses(seconds: float) -> tuple[float, float]:
    """The seconds between two reloads, and between two kills."""
    return (10.0, 7.0) if seconds >= 60 else (seconds / 4, seconds / 6)


def run(seconds: float, *acts: tuple[float, Callable[[], object]]) -> None:
    """Do each act again and again, beside the others, with its pause."""
    over = threading.Event()
    failures: list[BaseException] = []

    def loop(pause: float, act: Callable[[], object]) -> None:
        try:
            while not over.wait(pause):
                act()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=loop, args=given) for given in acts]
    for thread in threads:
        thread.start()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]


def account(events: list[Event], soak: Soak) -> tuple[int, int, int]:
    """Check the history of every job; return the numbers of starts, of ends, and of killed attempts."""
    by_job: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_job[event.words[1]].append(event)
    starts = ends = under_kill = 0
    for id in soak.ids:
        open_in: Event | None = None
        done, last = 0, Event(0.0, 0, ())
        for event in by_job[id]:
            if event.words[0] == "start":
                starts += 1
                if open_in is not None:
                    # The previous attempt has no end: its process was killed before this one began.
                    assert open_in.pid in soak.killed, (id, by_job[id])
                    assert soak.killed[open_in.pid] <= event.time, (id, by_job[id])
                    under_kill += 1
                # Killed between the end of the task and its record: only then may it run again.
                assert done == 0 or killed_between(soak, last, event), (id, by_job[id])
                open_in = event
            elif event.words[0] == "end":
                ends += 1
                assert open_in is not None, (id, by_job[id])
                assert open_in.pid == event.pid, (id, by_job[id])
                open_in, done, last = None, done + 1, event
            else:
                raise AssertionError((id, event))
        assert done, (id, "never done")
    return starts, ends, under_kill


def killed_between(soak: Soak, ended: Event, started: Event) -> bool:
    """Whether the process of ``ended`` was killed in between, so that it may not have recorded the end.

    That it did not is seen in the record: one attempt is done, the last one.
    """
    return ended.time - 0.1 <= soak.killed.get(ended.pid, 0.0) <= started.time


class SpoolRun(CommandServer):
    """``flask spool run``, which answers no request."""

    def _answers(self) -> bool:
        return True

    def restart(self) -> None:
        os.kill(self.master_pid, signal.SIGTERM)
        wait_for_exit(self, 60)
        self.__enter__()


@dataclass
class Served:
    """A site that is served in some way."""

    web: UwsgiServer
    history: History
    reload: Callable[[], object]
    spoolers: Callable[[], list[int]]
    log: Callable[[], str]

    def post(self, path: str, json: object = None) -> Any:
        answer = self.web.post(path, json)
        assert answer.status == 200, (answer.text, self.log()[-4000:])
        return answer.json

    def files(self) -> set[str]:
        """The ids of the jobs that have a file."""
        names = [name for _, _, files in os.walk(self.web.spool) for name in files]
        return {id for name in names if (id := spoolfile.id_of(name))}


@contextlib.contextmanager
def on_uwsgi(folder: Path) -> Iterator[Served]:
    with deployed(folder, "threads", spoolers=SPOOLERS, module="soak_site:create_app()") as site:
        site.wait_until_up(120)  # six processes import SQLAlchemy at once
        reload = partial(site.signal, signal.SIGHUP)
        yield Served(site.web, site.site.history, reload, site.jobs.spooler_pids, site.jobs.log)


@contextlib.contextmanager
def beside_gunicorn(folder: Path) -> Iterator[Served]:
    given: dict[str, Any] = {"env": environment_in(folder), "cwd": SITE, "spool": folder / "spool"}
    for name in ("spool", "web", "jobs"):
        (folder / name).mkdir(mode=0o700)
    command = ["gunicorn", "--workers", "2", "--threads", "4", "--bind", "127.0.0.1:{port}", "soak_site:create_app()"]
    web = CommandServer(folder / "web", command, probe="/spool", **given)
    runs = ["flask", "--app", "soak_site", "spool", "run", "--processes", SPOOLERS]
    jobs = SpoolRun(folder / "jobs", runs, **given)

    def reload() -> None:
        os.kill(web.master_pid, signal.SIGHUP)
        jobs.restart()

    def spoolers() -> list[int]:
        shown = folder / "spool" / "spoolers"
        names = os.listdir(shown) if shown.exists() else []
        return sorted({int(name) for name in names if name.isdigit()} & set(jobs._members()))

    with web, jobs:
        yield Served(web, History(folder / "history"), reload, spoolers, lambda: web.log() + jobs.log())


@pytest.mark.timeout(float(GIVEN or 20) + 300)
@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("serve", [on_uwsgi, beside_gunicorn], ids=lambda serve: serve.__name__)
def test_all_promises_hold_at_once_while_the_site_reloads_and_spoolers_are_killed(
    tmp_path: Path, seconds: float, serve: Callable[[Path], contextlib.AbstractContextManager[Served]]
) -> None:
    soak, keys = Soak(), ("a", "b")
    batches: dict[str, list[str]] = {}
    transactions: dict[str, list[str]] = {"commit": [], "rollback": []}
    with closing(sqlite3.connect(tmp_path / "data.db")) as database:
        database.execute("CREATE TABLE notes (id VARCHAR(64) PRIMARY KEY)")
        database.execute("CREATE TABLE spoolkit_outbox (id VARCHAR(64) PRIMARY KEY, spool VARCHAR(32))")
    with serve(tmp_path) as site:

        def limited() -> None:
            job = site.post("/call/limited", {"args": [chance.choice(keys), chance.choice(DURATIONS[:4])]})
            soak.ids.append(job["job"])

        def single() -> None:
            job = site.post("/call/single", {"args": [chance.choice(keys), chance.choice(DURATIONS[:5])]})
            if not job["duplicate"]:
                soak.ids.append(job["job"])

        def batch() -> None:
            made = site.post("/batch", [chance.choice(DURATIONS[:4]) for _ in range(3)])
            batches[made["batch"]] = made["jobs"]
            soak.ids.extend(made["jobs"])

        def transaction() -> None:
            end = chance.choice(list(transactions))
            transactions[end].append(site.post(f"/transaction/{end}")["job"])

        def look() -> None:
            soak.count(site.spoolers())
            for page in ("/spool/", "/spool/jobs"):
                answer = site.web.get(page)
                assert answer.status == 200, (answer.text, site.log()[-4000:])

        def reload() -> None:
            site.reload()
            soak.reloads += 1

        reload_every, kill_every = pauses(seconds)
        run(
            seconds,
            *((JOBS_EVERY, act) for act in (limited, single, transaction)),
            (1.0, batch),
            (0.5, look),
            (reload_every, reload),
            (kill_every, partial(soak.kill_one_of, site.spoolers)),
        )
        soak.ids.extend(transactions["commit"])
        over = time.time()
        wait_until(
            lambda: ends(site.history) >= {*soak.ids, *batches},
            timeout=120,
            message=lambda: f"not ended: {({*soak.ids, *batches}) - ends(site.history)}; {site.log()[-4000:]}",
        )
        wait_until(lambda: not site.files() & {*soak.ids}, timeout=120, message=lambda: f"left: {site.files()}")
        dues = partial(due_times, site.history)
        wait_until(lambda: dues()[-1] > over and is_complete(dues()), timeout=120, message=lambda: f"missing: {dues()}")
        assert not list((site.web.spool / "dead").glob("uwsgi_spoolfile_on_*"))
        events = site.history.events()
        with closing(Store(str(site.web.spool / "spoolkit.db"))) as store:
            outcomes = {id: [attempt.outcome for attempt in store.history(id)[0]] for id in soak.ids}
    with closing(sqlite3.connect(tmp_path / "data.db")) as database:
        rows = {id for (id,) in database.execute("SELECT id FROM notes")}
    assert rows == {*transactions["commit"]}
    assert {event.words[1] for event in events}.isdisjoint(transactions["rollback"])
    assert soak.most_spoolers <= 2 * SPOOLERS
    for id, recorded in outcomes.items():
        assert (recorded[-1], recorded.count("done")) == ("done", 1), (id, recorded)
    # The runs of the schedule and the callbacks of the batches are jobs like the others.
    soak.ids = sorted({event.words[1] for event in events})
    counts = account(events, soak)
    assert_within_limits(events, soak)
    for key in keys:
        assert_one_after_another([event for event in events if event.words[2:] == ("single", key)])
    assert_called_back(events, batches)
    assert_one_job_each([event for event in events if event.words[2] == "tick"])
    print(f"{len(soak.ids)} jobs, {soak.reloads} reloads, {len(soak.killed)} spoolers killed; {counts}")
    assert soak.reloads
    assert soak.killed


def ends(history: History) -> set[str]:
    """The jobs that have ended, and the batches whose callback has."""
    found = history.events("end")
    return {event.words[1] for event in found} | {event.words[3] for event in found if event.words[2] == "collect"}


def due_times(history: History) -> list[int]:
    return sorted({int(event.words[3]) for event in history.events("end") if event.words[2] == "tick"}) or [0]


def is_complete(dues: list[int]) -> bool:
    return dues == [*range(dues[0], dues[-1] + 1)]


def assert_within_limits(events: list[Event], soak: Soak) -> None:
    """No more attempts of a key than its limit at any time. One whose process was killed has ended by that."""
    going_on: dict[str, dict[str, int]] = defaultdict(dict)
    for event in events:
        what, id, task, key = event.words
        if task == "limited":
            if what == "end":
                going_on[key].pop(id, None)
                continue
            going_on[key][id] = event.pid
            alive = {id for id, pid in going_on[key].items() if soak.killed.get(pid, math.inf) > event.time}
            assert len(alive) <= LIMIT, (event, going_on[key])


def assert_one_after_another(events: list[Event]) -> None:
    """No job of a key has begun before the one before it was over for good."""
    ids = [event.words[1] for event in events]
    assert len([id for id, _ in groupby(ids)]) == len(set(ids)), events


def assert_called_back(events: list[Event], batches: dict[str, list[str]]) -> None:
    """Each batch has one callback, which began when all members had ended."""
    callbacks: dict[str, set[str]] = defaultdict(set)
    ended: set[str] = set()
    for what, id, task, of in (event.words for event in events):
        if what == "end":
            ended.add(id)
        elif task == "collect":
            assert ended.issuperset(batches[of]), (of, batches[of])
            callbacks[of].add(id)
    assert {of: len(jobs) for of, jobs in callbacks.items()} == dict.fromkeys(batches, 1)


def assert_one_job_each(events: list[Event]) -> None:
    """Each due time has one job."""
    jobs = {(event.words[3], event.words[1]) for event in events}
    assert len(jobs) == len({due for due, _ in jobs}), sorted(jobs)
