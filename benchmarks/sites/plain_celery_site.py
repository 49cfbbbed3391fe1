"""Celery alone, without results: what jobs of the engine ``celery`` are compared with."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.records import ran

app = Celery("bench", broker=os.environ["BENCH_BROKER"], set_as_current=False)
app.conf.task_ignore_result = True


@app.task(name="job")
def job(number: int, stamp: float) -> int:
    return ran(number, stamp)


def enqueue(number: int, stamp: float, due: float | None) -> None:
    job.delay(number, stamp)
