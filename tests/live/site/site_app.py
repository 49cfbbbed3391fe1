"""A site for the live tests: POST /call/<task> with {"args", "kwargs", "using", "spool"} dispatches one job.

With {"rows", "using"} it dispatches one for each row.
"""

from __future__ import annotations

import base64
import os

import site_tasks
from flask import Flask, Response, jsonify, request

from spoolkit import ArgumentError, SpoolKit, SpoolUnavailableError

app = Flask(__name__)
SpoolKit(app)


@app.post("/call/<name>")
def call(name: str) -> Response:
    task = getattr(site_tasks, name)
    asked = request.get_json()
    if "rows" in asked:
        jobs = task.map([tuple(row) for row in asked["rows"]], **asked.get("using", {}))
        return jsonify(jobs=[job.id for job in jobs], run_at=[job.run_at for job in jobs])
    if "packet" in asked:
        packet = {key.encode(): base64.b64decode(value) for key, value in asked["packet"].items()}
        job = task.spool(packet)
    elif "spool" in asked:
        job = task.spool(**asked["spool"])
    else:
        call = task.using(**asked["using"]) if asked.get("using") else task
        job = call(*asked.get("args", []), **asked.get("kwargs", {}))
    return jsonify(job=job.id, run_at=job.run_at, pid=os.getpid())


@app.get("/ping")
def ping() -> str:
    return "pong"


@app.post("/weigh/<int:size>")
def weigh(size: int) -> Response:
    return jsonify(job=site_tasks.weigh(b"\x00\xff" * (size // 2)).id)


@app.errorhandler(ArgumentError)
def refused(error: ArgumentError) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), 400


@app.errorhandler(SpoolUnavailableError)
def unavailable(error: SpoolUnavailableError) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), 503
