"""Tasks that follow a plan, one word per start, and record each start."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from spoolkit import SPOOL_RETRY, Abort, Retry, current_job, registry
from spoolkit.job import Limit, Rate, TaskOptions, Unique
from spoolkit.system import clock

BACKOFF = 5.0

AT_ONCE = 3
"""How many paced jobs may start at the same time. One more starts in each second."""

history = ""
"""The file to which each start and each normal end is appended."""

is_child = False
"""Whether a task may end this process."""

on_start: Callable[[str], None] | None = None
"""Called once, by the first task that starts, with the job's id."""


def note(word: str, id: str, *more: object) -> None:
    fd = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (" ".join(map(str, (word, id, *more))) + "\n").encode())
    finally:
        os.close(fd)


def read() -> list[list[str]]:
    """The recorded lines: ``start <id> <time> <attempt>``, ``ok <id>``, ``follow <id> <batch>``."""
    try:
        with open(history, encoding="ascii") as file:
            return [line.split() for line in file]
    except FileNotFoundError:
        return []


def _do(plan: list[str]) -> Any:
    global on_start
    job = current_job()
    number = sum(line[:2] == ["start", job.id] for line in read())
    note("start", job.id, repr(clock.now()), job.attempt)
    if on_start is not None:
        call, on_start = on_start, None
        call(job.id)
    word = plan[min(number, len(plan) - 1)]
    match word:
        case "fail":
            raise OSError("as planned")
        case "wrong":
            raise ValueError("as planned")
        case "pointless":
            raise KeyError("as planned")
        case "retry":
            raise Retry(delay=3)
        case "again":
            return SPOOL_RETRY
        case "abort":
            raise Abort("as planned")
        case "obey":
            for step in range(3):
                job.progress(step)
        case "die":
            if is_child:
                os._exit(1)
            raise OSError("as planned")
    note("ok", job.id)
    return word


def steady(plan: list[str]) -> Any:
    return _do(plan)


def picky(plan: list[str]) -> Any:
    return _do(plan)


def only(plan: list[str]) -> Any:
    return _do(plan)


UNIQUE = registry.declare(only, TaskOptions(retries=2, backoff=BACKOFF, unique=Unique(lambda plan: len(plan) % 2)))
"""Not among the tasks whose calls always make a job."""


def limited(plan: list[str]) -> Any:
    return _do(plan)


def paced(plan: list[str]) -> Any:
    return _do(plan)


def follow() -> None:
    """What follows from the end of other jobs: the callback of a batch, or the next job of a chain."""
    job = current_job()
    note("follow", job.id, job.batch or "-")


FOLLOW = registry.declare(follow, TaskOptions(retries=2, backoff=BACKOFF))

TASKS = {
    "steady": registry.declare(steady, TaskOptions(retries=2, backoff=BACKOFF)),
    "picky": registry.declare(
        picky, TaskOptions(retries=1, backoff=BACKOFF, retry_on=(OSError,), discard_on=(KeyError,))
    ),
    "limited": registry.declare(limited, TaskOptions(retries=2, backoff=BACKOFF, limit=Limit(1))),
    "paced": registry.declare(paced, TaskOptions(retries=2, backoff=BACKOFF, rate=Rate(1, per=1, burst=AT_ONCE))),
}
WORDS = ("ok", "fail", "wrong", "pointless", "retry", "again", "abort", "obey", "die")
LAST = {"steady": {"abort"}, "only": {"abort"}, "limited": {"abort"}, "paced": {"abort"}, "picky": {"abort", "wrong"}}
"""The words of a plan after which the job is dead, even if attempts are left."""
