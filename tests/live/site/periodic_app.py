"""A site with periodic tasks. VERSION says which, and CLOCK, if it is set, gives the site a clock of its own.

``CLOCK=start:origin:speed``: its time is ``origin`` at the machine's ``start``, and passes ``speed`` times as fast.
A file beside the history, ``step``, holds seconds that are added. It must stay behind the machine's, which uWSGI uses.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from flask import Flask
from history import record

from spoolkit import SpoolKit, current_job, periodic, spool
from spoolkit.schedules import ticks
from spoolkit.system import clock

VERSION = os.environ.get("VERSION", "1")

app = Flask(__name__)
SpoolKit(app)


@app.get("/ping")
def ping() -> str:
    return VERSION


def _site_time() -> float:
    start, origin, speed = map(float, os.environ["CLOCK"].split(":"))
    step = Path(os.environ["HISTORY"]).with_name("step")
    extra = 0.0
    with contextlib.suppress(OSError, ValueError):
        extra = float(step.read_text())
    return origin + (time.time() - start) * speed + extra


if "CLOCK" in os.environ:
    clock.now = _site_time


def tell(name: str) -> None:
    job = current_job()
    record(name, f"{job.run_at:.0f}", job.attempt, "late" if job.is_late else "in-time", VERSION)


@spool(retries=50, backoff=0.1)
def each() -> None:
    tell("each")


@spool(retries=50, backoff=0.1)
def once(seconds: float = 0.0) -> None:
    tell("once")
    time.sleep(seconds)


@spool
def skipped() -> None:
    tell("skipped")


@spool
def changed() -> None:
    tell("changed")


@spool
def lasting() -> None:
    due = f"{current_job().run_at:.0f}"
    record("lasting", "begin", due)
    time.sleep(1.2)
    record("lasting", "end", due)


if VERSION == "quick":
    periodic(every=1, missed="all")(each)
    periodic(every=1)(once)
    periodic(every=1)(lasting)
elif VERSION in ("with once", "without once"):
    periodic(every=1, missed="all")(each)
    if VERSION == "with once":
        periodic(every=1)(once)
elif VERSION in ("1", "2"):
    periodic(every=60, missed="all", overlap="allow")(each)
    periodic(every=60, kwargs={"seconds": 0.05})(once)
    periodic(every=60, missed="skip")(skipped)
    periodic(every=60 if VERSION == "1" else 120)(changed)


def _die(moment: str) -> None:
    """Kill the process that makes the next run, once, at this moment."""

    def at(here: str) -> None:
        if here == moment:
            with contextlib.suppress(FileExistsError):
                Path(os.environ["HISTORY"]).with_name("died").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)

    write, make = ticks.schedules.write, ticks._make

    def write_and_die(*args: object, **given: object) -> None:
        if args[1].fired:  # type: ignore[attr-defined]
            at("before the state")
        write(*args, **given)  # type: ignore[arg-type]
        if args[1].fired:  # type: ignore[attr-defined]
            at("before the link")

    def make_and_die(*args: object) -> None:
        make(*args)  # type: ignore[arg-type]
        at("after the link")

    ticks.schedules.write, ticks._make = write_and_die, make_and_die  # type: ignore[assignment]


if "DIES_PERIODIC" in os.environ:
    _die(os.environ["DIES_PERIODIC"])
