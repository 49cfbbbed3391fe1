"""A site for the tests of threads, under any server."""

from __future__ import annotations

import os
import resource
import threading
import time
from contextvars import ContextVar

from flask import Flask, Response, g, has_request_context, jsonify, request
from history import record

from spoolkit import Job, QueueFull, SpoolKit, current_job, spool, thread
from spoolkit.api import jobs_blueprint

app = Flask(__name__)
kit = SpoolKit(app)
app.register_blueprint(jobs_blueprint(listing=True))

request_id: ContextVar[str] = ContextVar("request_id", default="-")


@thread
def work(name: str, seconds: float) -> None:
    record("start", name)
    time.sleep(seconds)
    record("end", name)


@spool
def calls_a_thread() -> None:
    work("inner", 0.5)


@thread
def quick() -> None:
    pass


@thread
def tells(word: str) -> None:
    """Record what the task can see of its caller."""
    time.sleep(0.01)
    word_in_g = g.get("word", "-")
    g.word = "of the task"
    record("told", word, request_id.get(), word_in_g, has_request_context(), current_job().args[0])
    request_id.set("of the task")


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.post("/work/<int:jobs>/<float:seconds>")
def start_work(jobs: int, seconds: float) -> Response:
    made = [work(str(number), seconds) for number in range(jobs)]
    return jsonify(pid=os.getpid(), jobs=[job.id for job in made])


@app.post("/quick/<int:jobs>")
def start_quick(jobs: int) -> Response:
    """Enqueue so many jobs, and wait until all have finished."""
    refused = 0
    last: Job | None = None
    for _ in range(jobs):
        while True:
            try:
                last = quick()
                break
            except QueueFull:
                refused += 1
                time.sleep(0.005)
    assert last is not None
    assert last.wait(60)
    return jsonify(refused=refused, **inside())


@app.get("/inside")
def look_inside() -> Response:
    return jsonify(inside())


def inside() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "threads": sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("spoolkit")),
        "all_threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


@app.post("/tell/<word>")
def tell(word: str) -> str:
    request_id.set(word)
    g.word = word
    time.sleep(0.005)
    tells(word)
    return request.path


@app.errorhandler(QueueFull)
def full(error: QueueFull) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), 503


if "CALL_AT_IMPORT" in os.environ:
    quick()
