"""A site with timers and crons of uWSGI's, registered at import as uwsgidecorators registers them."""

from __future__ import annotations

import os

from flask import Flask
from history import record as note
from uwsgidecorators import cron, filemon, rbtimer, timer

from spoolkit import SpoolKit, spool

app = Flask(__name__)
SpoolKit(app)


@app.get("/version")
def version() -> str:
    return f"1 {os.getpid()}"


@app.get("/call")
def call() -> str:
    return job().id


@spool
def job() -> None:
    note("job")


# begin
@timer(1)
def every_second(signum: int) -> None:
    note("timer")


@rbtimer(1)
def every_second_too(signum: int) -> None:
    note("rbtimer")


# end


# Due at once, and a minute later.
@cron(-1, -1, -1, -1, -1)
def every_minute(signum: int) -> None:
    note("cron")


@timer(1, target="spooler")
def elsewhere(signum: int) -> None:
    note("elsewhere")


@filemon(os.environ["MONITORED"])
def changed(signum: int) -> None:
    note("filemon")
