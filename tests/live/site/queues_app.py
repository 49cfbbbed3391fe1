"""A site with a queue of its own for mails, and with priorities: POST /call/<task> with {"args"}."""

from __future__ import annotations

import os
import signal
import time

from flask import Flask, Response, jsonify, request
from history import record, runs_so_far

from spoolkit import SpoolKit, periodic, spool

app = Flask(__name__)
app.config["SPOOLKIT_QUEUES"] = {"mail": {"processes": 2}}
SpoolKit(app)


@spool
def holds(name: str) -> None:
    record("start", name)
    while not os.path.exists(f"{os.environ['HISTORY']}.{name}"):
        time.sleep(0.01)


@spool
def step(name: str, then: str = "") -> None:
    record("ran", name)
    if then == "urgent":
        urgent("urgent")
    elif then == "kills":
        kills.using(priority=0)("killed")


@spool(priority=1)
def urgent(name: str) -> None:
    record("ran", name)


@spool(priority=900)
def low(name: str) -> None:
    record("ran", name)


@spool(backoff=0.1)
def kills(name: str) -> None:
    record("ran", name)
    if runs_so_far(f"ran {name}") < 2:
        os.kill(os.getpid(), signal.SIGKILL)


@spool(queue="mail")
def mail(name: str) -> None:
    record("mail", name)


@periodic(every=1)
@spool(queue="mail")
def tick() -> None:
    record("tick")


@app.post("/call/<name>")
def call(name: str) -> Response:
    job = globals()[name](*request.get_json()["args"])
    return jsonify(job=job.id, queue=job.queue, run_at=job.run_at)
