"""A site with a database and an outbox, whose process is killed at a point of a call that waits for a commit."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from flask import Flask
from history import record
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from spoolkit import Batch, SpoolKit, current_job, spool
from spoolkit.coordination.outbox import Outbox
from spoolkit.spooldir import batches, spoolers, spoolfile
from spoolkit.spooling import batch_jobs, leftovers
from spoolkit.store import Store

app = Flask(__name__)
kit = SpoolKit(app)
database = Path(os.environ["HISTORY"]).with_name("data.db")
engine = create_engine(f"sqlite:///{database}", poolclass=NullPool, connect_args={"timeout": 60})
kit.outbox(engine)
mark = database.with_name("mark")


@spool
def note() -> None:
    record("ran", current_job().id)


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def call(point: str) -> None:
    """Write a row and call a task in one transaction; be killed at ``point``."""
    with Session(engine) as session:
        if point == "before the row":
            Outbox.add = die  # type: ignore[method-assign]
        job = note.using(after_commit=session)()
        if point == "after the row":
            die()
        session.execute(text("INSERT INTO notes VALUES (:id)"), {"id": job.id})
        if point == "before the rename":
            event.listen(Session, "after_commit", die, insert=True)
        if point == "after the rename":
            spoolers.wake = die
        session.commit()
    if point == "before the row is deleted":
        Outbox.forget = die  # type: ignore[method-assign]
        leftovers.sweep(app.config["SPOOLKIT_SPOOL"])
        time.sleep(90)  # in an HTTP process, a thread of this sweep or of the next one is killed there
    record("not-killed")


@spool
def called_back() -> None:
    record("called-back", current_job().batch)


accept_batch = Store.accept_batch


def accept_unless_killed(*args: Any, **options: Any) -> Any:
    """A spooler is killed, once, when it has written the members of a batch and is about to record it."""
    with contextlib.suppress(FileNotFoundError):
        mark.unlink()
        record("killed")
        die()
    return accept_batch(*args, **options)


Store.accept_batch = accept_unless_killed  # type: ignore[method-assign]


def make_batch(point: str) -> None:
    """Write rows and make a batch in one transaction; be killed at ``point``."""
    with Session(engine) as session:
        with Batch("import", then=called_back.call(), after_commit=session) as batch:
            ids = [batch.add(note).id for _ in range(3)]
        record("made", batch.id, *ids)
        if point == "after the row":
            die()
        for id in ids:
            session.execute(text("INSERT INTO notes VALUES (:id)"), {"id": id})
        if point == "before the rename":
            event.listen(Session, "after_commit", die, insert=True)
        if point == "in the spooler as well":
            mark.touch()
        if point in {"after the rename", "in the spooler as well"}:
            batch_jobs._expand = die
        if point == "before the record":
            Store.accept_batch = die  # type: ignore[method-assign]
        if point == "after the record":
            spoolfile.finish = die
        if point == "before the members are moved":
            batches.publish = die
        session.commit()
    record("not-killed")


@app.post("/batch/<point>")
def make_batch_at(point: str) -> str:
    make_batch(point)
    return "not killed"


@app.post("/call/<point>")
def call_at(point: str) -> str:
    call(point)
    return "not killed"


if __name__ == "__main__":
    app.config["SPOOLKIT_SPOOL"] = os.environ["SPOOLKIT_SPOOL"]
    with app.app_context():
        call(sys.argv[1])
