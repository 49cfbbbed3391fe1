"""A site from a factory that uses all at once: schedules, limits, unique jobs, batches, jobs at a commit, the page."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from history import record
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from spoolkit import Batch, Limit, SpoolKit, current_job, periodic, spool
from spoolkit.dashboard import READ_ONLY, Access, dashboard_blueprint

LIMIT = 2

database = Path(os.environ["HISTORY"]).with_name("data.db")
engine = create_engine(f"sqlite:///{database}", poolclass=NullPool, connect_args={"timeout": 60})
often: dict[str, Any] = {"retries": 50, "backoff": 0.1}


@contextlib.contextmanager
def noted(of: object) -> Iterator[None]:
    """Write down the start and the end of this attempt, with what it belongs to: a key, a batch, a due time."""
    job = current_job()
    record("start", job.id, job.task, of)
    yield
    record("end", job.id, job.task, of)


@periodic(every=1, missed="all")
@spool(name="tick", **often)
def tick() -> None:
    with noted(f"{current_job().run_at:.0f}"):
        pass


@spool(name="limited", limit=Limit(LIMIT, key=lambda key: key), **often)
def limited(key: str, seconds: float) -> None:
    with noted(key):
        time.sleep(seconds)


@spool(name="single", unique=("key",), **often)
def single(key: str, seconds: float) -> None:
    with noted(key):
        time.sleep(seconds)


@spool(name="member", **often)
def member(seconds: float) -> None:
    with noted(current_job().batch):
        time.sleep(seconds)


@spool(name="collect", **often)
def collect() -> None:
    with noted(current_job().batch):
        pass


@spool(name="committed", **often)
def committed() -> None:
    with noted("-"):
        pass


def create_app() -> Flask:
    app = Flask(__name__)
    kit = SpoolKit(app)
    with app.app_context():
        kit.outbox(engine)
    app.register_blueprint(dashboard_blueprint(lambda request: Access("soak", READ_ONLY)), url_prefix="/spool")

    @app.post("/call/<name>")
    def call(name: str) -> ResponseReturnValue:
        task = {"limited": limited, "single": single}[name]
        job = task(*request.get_json()["args"])
        return jsonify(job=job.id, duplicate=job.duplicate)

    @app.post("/batch")
    def batch() -> ResponseReturnValue:
        with Batch("soak", then=collect.call()) as made:
            jobs = [made.add(member, seconds) for seconds in request.get_json()]
        return jsonify(batch=made.id, jobs=[job.id for job in jobs])

    @app.post("/transaction/<end>")
    def transaction(end: str) -> ResponseReturnValue:
        with Session(engine) as session:
            job = committed.using(after_commit=session)()
            session.execute(text("INSERT INTO notes VALUES (:id)"), {"id": job.id})
            session.commit() if end == "commit" else session.rollback()
        return jsonify(job=job.id)

    return app
