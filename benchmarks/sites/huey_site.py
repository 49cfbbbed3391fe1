"""Huey with results, on Redis or, without a broker, on SQLite."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from huey import RedisHuey, SqliteHuey

from benchmarks.records import ran

if os.environ.get("BENCH_REDIS"):
    huey = RedisHuey("bench", url=os.environ["BENCH_REDIS"])
else:
    huey = SqliteHuey("bench", filename=os.environ["BENCH_SQLITE"])


@huey.task()
def job(number: int, stamp: float) -> int:
    return ran(number, stamp)


def enqueue(number: int, stamp: float, due: float | None) -> None:
    if due is None:
        job(number, stamp)
    else:
        job.schedule((number, stamp), eta=datetime.fromtimestamp(due, UTC))
