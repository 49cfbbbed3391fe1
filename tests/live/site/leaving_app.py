"""A site that moves from one server to another, with jobs in every state."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flask import Flask, Response, jsonify
from history import record

from spoolkit import SpoolKit, current_job, periodic, spool, thread

app = Flask(__name__)
SpoolKit(app)

FOLDER = Path(os.environ["HISTORY"]).parent
PATIENCE = 100.0


@spool(retries=1, backoff=0.1)
def work(seconds: float = 0.0) -> None:
    record("start", current_job().id)
    time.sleep(seconds)
    record("end", current_job().id)


@spool(retries=1, backoff=0.1)
def held() -> None:
    """It runs until the file ``released`` is there."""
    record("start", current_job().id)
    deadline = time.monotonic() + PATIENCE
    while not (FOLDER / "released").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    record("end", current_job().id)


@spool(retries=1000, backoff=0.3)
def fails() -> None:
    """It fails until the file ``released`` is there."""
    record("start", current_job().id)
    if not (FOLDER / "released").exists():
        raise ValueError("not yet")
    record("end", current_job().id)


@spool(retries=0)
def broken() -> None:
    record("start", current_job().id)
    if not (FOLDER / "repaired").exists():
        raise ValueError("not repaired")
    record("end", current_job().id)


@periodic(every=1, missed="all")
@spool(retries=0)
def tick() -> None:
    record("tick", f"{current_job().run_at:.0f}")


@thread
def threaded(seconds: float) -> None:
    record("start", current_job().id)
    time.sleep(seconds)
    record("end", current_job().id)


TASKS = {"work": work, "held": held, "fails": fails, "broken": broken}


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.get("/slow/<float:seconds>")
def slow(seconds: float) -> str:
    record("request")
    time.sleep(seconds)
    return "answered"


@app.post("/enqueue/<task>/<float:delay>/<float:seconds>")
def enqueue(task: str, delay: float, seconds: float) -> Response:
    args = (seconds,) if task == "work" else ()
    return jsonify(job=TASKS[task].using(delay=delay or None)(*args).id)


@app.post("/thread/<float:seconds>")
def start_thread_job(seconds: float) -> Response:
    return jsonify(job=threaded(seconds).id)
