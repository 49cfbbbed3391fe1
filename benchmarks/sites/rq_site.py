"""RQ: results are kept for 500 seconds, its default."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from redis import Redis
from rq import Queue

from benchmarks.records import ran

queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_REDIS"]))


def job(number: int, stamp: float) -> int:
    return ran(number, stamp)


def enqueue(number: int, stamp: float, due: float | None) -> None:
    if due is None:
        queue.enqueue(job, number, stamp)
    else:
        queue.enqueue_at(datetime.fromtimestamp(due, UTC), job, number, stamp)
