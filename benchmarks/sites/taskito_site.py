"""taskito on SQLite, with results."""

from __future__ import annotations

import os
import time

from taskito import Queue

from benchmarks.records import ran

queue = Queue(db_path=os.environ["BENCH_SQLITE"], workers=4)


@queue.task()
def job(number: int, stamp: float) -> int:
    return ran(number, stamp)


def enqueue(number: int, stamp: float, due: float | None) -> None:
    if due is None:
        job.delay(number, stamp)
    else:
        job.apply_async((number, stamp), delay=due - time.time())
