"""The matrix of Celery: each fault, while jobs run, wait in the broker, wait for a retry and are delayed.

All jobs of a row meet the fault at the same time. No assertion asks how far a job was when it came: each holds
whatever the processes of the site did until then, and however long they stood still.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from brokers import Broker, Wire
from celery_workers import FOREVER, Site, fake_clock
from uwsgi_server import wait_until

from spoolkit.admin import lookup
from spoolkit.store.queries import ENDINGS

pytestmark = pytest.mark.matrix

FINAL = {"done", "dead", "cancelled"}

DELAY = 4.0
"""Seconds by which a job is delayed."""

BACKOFFS = (3.5, 8.0)
"""Seconds between two attempts of jobs that fail: a short time, which Celery waits, and one that the origin waits."""

ATTEMPTS = 6
"""More than any fault takes, so that each of these jobs is done in the end, also on a machine that is very busy."""


class Scene(NamedTuple):
    """A site with its broker, and a wire from each machine to it."""

    site: Site
    broker: Broker
    of_origin: Wire
    of_worker: Wire

    def call_meanwhile(self) -> None:
        """While something is away, a call is accepted all the same."""
        (id,) = self.site.call("quick", retries=ATTEMPTS - 1)
        with (self.site.folder / "meanwhile").open("a") as file:
            file.write(f"{id}\n")

    def meanwhile(self) -> list[str]:
        path = self.site.folder / "meanwhile"
        return path.read_text().split() if path.exists() else []


def nothing(scene: Scene) -> None:
    """What the clocks do is fault enough."""


def kill_worker(scene: Scene) -> None:
    scene.site.worker.kill()
    scene.call_meanwhile()
    scene.site.worker.start()


def kill_origin(scene: Scene) -> None:
    scene.site.origin.kill()
    scene.call_meanwhile()
    scene.site.origin.start()


def kill_broker(scene: Scene) -> None:
    scene.broker.kill()
    scene.call_meanwhile()
    scene.broker.__enter__()


def restart_broker(scene: Scene) -> None:
    scene.broker.stop()
    scene.call_meanwhile()
    scene.broker.__enter__()


def cut_worker(scene: Scene) -> None:
    """Until the origin says that attempts are lost."""
    scene.of_worker.cut()
    scene.call_meanwhile()
    wait_until(lambda: "crashed" in scene.site.endings(), timeout=FOREVER, message=scene.site.logs)
    scene.of_worker.mend()


def cut_origin(scene: Scene) -> None:
    """Until the origin says that the broker does not answer: for longer than SPOOLKIT_CELERY_LOST."""
    scene.of_origin.cut()
    scene.call_meanwhile()
    wait_until(lambda: "cannot be published" in scene.site.origin.log(), timeout=FOREVER, message=scene.site.logs)
    scene.of_origin.mend()


Fault = Callable[[Scene], None]

FAULTS: dict[str, tuple[Fault, float]] = {
    "worker killed": (kill_worker, 0.0),
    "origin killed": (kill_origin, 0.0),
    "broker killed": (kill_broker, 0.0),
    "broker restarted": (restart_broker, 0.0),
    "worker cut off": (cut_worker, 0.0),
    "origin cut off": (cut_origin, 0.0),
    "worker's clock ahead": (nothing, 30.0),
    "worker's clock behind": (nothing, -30.0),
}
"""What happens, and by how many seconds the worker's clock is ahead."""


@pytest.mark.parametrize("fault", FAULTS)
def test_jobs_in_each_state_survive(fault: str, broker: Broker, tmp_path: Path) -> None:
    happen, ahead = FAULTS[fault]
    # Redis gives back what a dead worker had fetched after this time; RabbitMQ does so at once.
    options = {"broker_transport_options": {"visibility_timeout": 5}} if "redis" in broker.url else {}
    site = Site(tmp_path / "site", broker, env={"CELERY_SETTINGS": json.dumps(options)})
    with ExitStack() as open_wires:
        wires = [open_wires.enter_context(Wire(broker.port)) for _ in range(2)]
        for process, wire in zip((site.origin, site.worker), wires, strict=True):
            process.env = {**site.env, "BROKER": broker.url.replace(str(broker.port), str(wire.port))}
        site.worker.env.update(fake_clock(ahead))
        open_wires.callback(site.kill)
        site.origin.start()
        site.worker.start()
        play(Scene(site, broker, *wires), happen)


def play(scene: Scene, happen: Fault) -> None:
    site = scene.site
    often = {"retries": ATTEMPTS - 1}
    retrying = site.call_each(*(("fails once", {"backoff": one, **often}) for one in BACKOFFS))
    site.until_noted("fail", retrying)
    running, last_chance = ([id] for id in site.call_each(("waits", often), ("waits", {"retries": 0})))
    site.until_noted("start", [*running, *last_chance])  # the worker has no other processes
    *waiting, delayed = site.call_each(("quick", often), ("quick", often), ("quick", {"delay": DELAY, **often}))
    wait_until(lambda: all(site.is_sent(id) for id in waiting), timeout=FOREVER, message=site.logs)
    happen(scene)
    healed = time.monotonic()
    site.go()

    jobs = {"running": running, "waiting": waiting, "retrying": retrying, "delayed": [delayed]}
    jobs["meanwhile"] = scene.meanwhile()
    for name, ids in jobs.items():
        for id in ids:
            found = site.until(id, *FINAL)
            assert found["state"] == "done", (name, found, site.logs())
    assert site.until(*last_chance, *FINAL)["state"] in FINAL
    print(f"all were over {time.monotonic() - healed:.1f} s after the fault")

    # What else is in the queue is a copy: it has been refused once a job has run that was published after it.
    (last,) = site.call("quick", **often)
    site.until(last, "done")
    for id in [*chain(*jobs.values()), *last_chance]:
        check(site, id)
    for note in site.notes("start", delayed)[:1]:
        assert site.on_monotonic(site.until(delayed, "done")["run_at"]) <= note.at, "it has run too early"
    wait_until(lambda: site.sent() == [], timeout=FOREVER, message=lambda: f"left in sent/: {site.sent()}")
    with site.looking():
        assert lookup.list_files().waiting == {}


def check(site: Site, id: str) -> None:
    """By its notes and by its events: each attempt has started once at most, and the job has ended once."""
    found, starts, events = site.until(id, *FINAL), site.starts(id), site.events(id)
    assert len(set(starts)) == len(starts), (id, starts, site.logs())
    assert set(starts) <= set(range(1, found["attempt"] + 1)), (id, starts, found)
    assert found["attempt"] <= found["max_attempts"], found
    ends = [attempt for kind, attempt in events if kind in ENDINGS]
    assert sorted(ends) == list(range(1, found["attempt"] + 1)), (id, events)
    assert [kind for kind, _ in events].count("done") == (found["state"] == "done"), (id, events)
