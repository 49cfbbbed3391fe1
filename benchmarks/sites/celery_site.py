"""Celery on Redis, with results."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from celery import Celery

from benchmarks.records import ran

app = Celery("bench", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])


@app.task(name="job")
def job(number: int, stamp: float) -> int:
    return ran(number, stamp)


def enqueue(number: int, stamp: float, due: float | None) -> None:
    if due is None:
        job.delay(number, stamp)
    else:
        job.apply_async((number, stamp), eta=datetime.fromtimestamp(due, UTC))
