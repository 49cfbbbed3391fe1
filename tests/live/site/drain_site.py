"""A site for stops and reloads: POST /call/<task> with {"args"}, GET /slow/<seconds>, GET /version."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from flask import Flask, Response, jsonify, request
from history import record
from kill_tasks import noted

from spoolkit import JobTimeout, SpoolKit, current_job, spool

VERSION = "old"

app = Flask(__name__)
SpoolKit(app)


@app.post("/call/<name>")
def call(name: str) -> Response:
    return jsonify(job=globals()[name](*request.get_json()["args"]).id)


@app.get("/slow/<float:seconds>")
def slow(seconds: float) -> Response:
    record("request", seconds)
    time.sleep(seconds)
    return jsonify(pid=os.getpid())


@app.get("/version")
def version() -> Response:
    return jsonify(version=VERSION, pid=os.getpid())


@spool(retries=0)
def work(seconds: float) -> str:
    """With no attempt to spare: a stop must cost none."""
    with noted():
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.05)
    return VERSION


@spool(retries=0)
def holds() -> str:
    """Goes on for as long as there is no file ``released`` beside the history."""
    with noted():
        wait_for_release()
    return VERSION


def wait_for_release() -> None:
    while not Path(os.environ["HISTORY"]).with_name("released").exists():
        time.sleep(0.01)


@spool(retries=20, backoff=0.1)
def sturdy(seconds: float) -> None:
    """May lose its process now and then."""
    with noted():
        time.sleep(seconds)


@spool(retries=0, timeout=1.0)
def overruns(seconds: float) -> str:
    """Goes on after its timeout, until it is killed at the hard limit."""
    with noted():
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(JobTimeout):
                time.sleep(0.05)
    return VERSION


@spool(retries=0)
def deaf() -> str:
    """Takes no notice of signals, and leaves the process so. Goes on until it is released."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with noted():
        wait_for_release()
    return VERSION


@spool
def forks() -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        os.write(tell, b"!")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    record("forked", "ended", "by", -os.waitstatus_to_exitcode(status))


@spool(retries=0)
def counts(seconds: float, steps: int) -> list[int]:
    return count(seconds, steps)


def count(seconds: float, steps: int) -> list[int]:
    """Goes through its steps, each once, over as many attempts as it takes."""
    job = current_job()
    done = set(job.resume([]))
    with noted():
        for step in job.steps(range(steps)):
            record("step", job.id, step)
            done.add(step)  # the one in which it was cut off is there already
            job.checkpoint(sorted(done))
            time.sleep(seconds)
    return [sum(done), job.attempt]


@spool(retries=1, backoff=0.1)
def counts_through_kills(seconds: float, steps: int) -> list[int]:
    return count(seconds, steps)
