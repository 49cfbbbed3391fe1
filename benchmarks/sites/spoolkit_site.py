"""spoolkit: ``@spool``, with its store."""

from __future__ import annotations

import os

from benchmarks.records import ran
from benchmarks.sites import web
from spoolkit import SpoolKit, spool


@spool
def job(number: int, stamp: float) -> int:
    return ran(number, stamp)


def enqueue(number: int, stamp: float, due: float | None) -> None:
    if due is None:
        job(number, stamp)
    else:
        job.using(at=due)(number, stamp)


app = web.site(enqueue)
if broker := os.environ.get("BENCH_BROKER"):
    app.config.update(SPOOLKIT_ENGINE="celery", CELERY={"broker_url": broker})
SpoolKit(app)
