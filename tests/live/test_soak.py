"""Jobs without end, while the site is reloaded and spoolers are killed: each is done, none runs twice at once.

For 20 seconds in ``make matrix``; ``SOAK_SECONDS=300 make soak`` for as long as you like.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sampling import sampled
from uwsgi_server import wait_until

from .conftest import Event
from .draining import Deployed, deployed

GIVEN = os.environ.get("SOAK_SECONDS")
SECONDS = [float(GIVEN)] if GIVEN else sampled([20.0])
JOBS_EVERY = 0.25
DURATIONS = (0.005, 0.02, 0.1, 0.3, 1.0, 3.0)
SPOOLERS = 4


@dataclass
class Soak:
    """What the test did to the site."""

    ids: list[str] = field(default_factory=list)
    killed: dict[int, float] = field(default_factory=dict)
    """When each process was killed: unix time just before the kill."""
    reloads: int = 0
    most_spoolers: int = 0


@pytest.mark.timeout(float(GIVEN or 20) + 300)
@pytest.mark.parametrize("seconds", SECONDS)
def test_each_job_is_done_once_while_the_site_reloads_and_spoolers_are_killed(tmp_path: Path, seconds: float) -> None:
    soak = Soak()
    # With a single thread, uWSGI drops a connection that it has just accepted when it is asked to exit.
    with deployed(tmp_path, "threads", spoolers=SPOOLERS) as site:
        site.wait_until_up()
        run(site, soak, seconds)
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


def run(site: Deployed, soak: Soak, seconds: float) -> None:
    over = threading.Event()
    failures: list[BaseException] = []
    chance = random.Random(int.from_bytes(os.urandom(4)))

    def every(seconds: float, act: object) -> threading.Thread:
        def loop() -> None:
            try:
                while not over.wait(seconds):
                    act()  # type: ignore[operator]
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=loop)
        thread.start()
        return thread

    def enqueue() -> None:
        soak.ids.append(site.site.call("sturdy", chance.choice(DURATIONS))["job"])

    def reload() -> None:
        site.signal(signal.SIGHUP)
        soak.reloads += 1

    def kill() -> None:
        spoolers = site.jobs.spooler_pids()
        if spoolers:
            victim, now = chance.choice(spoolers), time.time()
            with contextlib.suppress(ProcessLookupError):  # a reload has just ended it
                os.kill(victim, signal.SIGKILL)
                soak.killed[victim] = now

    def look() -> None:
        soak.most_spoolers = max(soak.most_spoolers, len(site.jobs.spooler_pids()))

    reload_every, kill_every = (10.0, 7.0) if seconds >= 60 else (seconds / 4, seconds / 6)
    acts = ((JOBS_EVERY, enqueue), (reload_every, reload), (kill_every, kill), (0.2, look))
    threads = [every(pause, act) for pause, act in acts]
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
