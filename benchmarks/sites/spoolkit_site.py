"""spoolkit: ``@spool``, with its store."""

from __future__ import annotations

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
SpoolKit(app)
