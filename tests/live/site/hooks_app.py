"""A site with hooks, headers and a signal, all of which write to the history."""

from __future__ import annotations

import os
import time

from flask import Flask, has_request_context, request

from spoolkit import SpoolKit, current_job, spool
from spoolkit.signals import job_done

app = Flask(__name__)
kit = SpoolKit(app)


def note(*words: object) -> None:
    with open(os.environ["HISTORY"], "a") as history:
        history.write(" ".join(map(str, (time.time(), os.getpid(), *words))) + "\n")


@kit.headers
def of_the_request() -> dict[str, str] | None:
    return {"request_id": request.headers["X-Request-Id"]} if has_request_context() else None


@kit.on_spooler_start
def started() -> None:
    note("start")


@kit.on_spooler_stop
def stopped() -> None:
    note("stop")


@job_done.connect
def hear(task: str, job: object, result: object, **_: object) -> None:
    note("done", result)


@spool
def task(word: str) -> str:
    note("task", word, current_job().headers.get("request_id"))
    return word


@app.post("/call/<word>")
def call(word: str) -> str:
    return task(word).id


@app.get("/ping")
def ping() -> str:
    return "pong"
