"""Tasks for workers of Celery, and the factory of their site. What they do is noted in the folder that SITE names."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from flask import Flask

from spoolkit import SpoolKit, current_job, spool
from spoolkit.api import jobs_blueprint
from spoolkit.dashboard import Access, dashboard_blueprint

FOLDER = os.environ["SITE"]


def create_app() -> Flask:
    """The site, with the settings that the environment has as JSON."""
    app = Flask("site_with_celery", root_path=FOLDER)
    celery = {"broker_url": os.environ["BROKER"], "worker_proc_alive_timeout": 30.0}
    app.config.from_mapping(
        SPOOLKIT_SPOOL=f"{FOLDER}/spool",
        SPOOLKIT_ENGINE="celery",
        SPOOLKIT_CELERY_LOST=3,
        SPOOLKIT_DEV_RUNNER=False,
        CELERY={**celery, **json.loads(os.environ.get("CELERY_SETTINGS", "{}"))},
    )
    app.config.update(json.loads(os.environ.get("SITE_SETTINGS", "{}")))
    SpoolKit(app)
    app.register_blueprint(jobs_blueprint())
    app.register_blueprint(dashboard_blueprint(access=lambda request: Access("ann", {"view"})), url_prefix="/spool")
    app.add_url_rule("/call/<how>", "call", lambda how: work(how).id, methods=["POST"])
    app.add_url_rule("/pid", "pid", lambda: str(os.getpid()))
    app.cli.command("call")(call)
    return app


def note(word: str) -> None:
    """One line; by a clock that all processes of the machine share, whatever their time of day is."""
    job = current_job()
    fd = os.open(f"{FOLDER}/notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{word} {job.id} {job.attempt} {time.monotonic()}\n".encode())
    finally:
        os.close(fd)


@spool(retries=2, backoff=0)
def work(how: str = "quick") -> dict[str, Any]:
    attempt = current_job().attempt
    note("start")
    if how == "waits":
        while not os.path.exists(f"{FOLDER}/go"):
            # time.sleep() fails under libfaketime 0.9.10, if it leaves the monotonic clock alone.
            threading.Event().wait(0.05)
    elif how == "until cancelled":
        while not current_job().cancelled:
            threading.Event().wait(0.05)
    elif how == "kills":
        os.kill(os.getpid(), 9)
    elif (how == "fails" and attempt < 3) or (how == "fails once" and attempt == 1):
        note("fail")
        raise ValueError("again")
    print("worked")
    note("end")
    return {"how": how}


def call() -> None:
    """Enqueue the jobs of the standard input: a list, each with how it is to work, and how it is called."""
    for how, using in json.load(sys.stdin):
        print(work.using(**using)(how).id)
