"""Enqueues jobs on order: within an HTTP process of a uWSGI site, else as a program that reads orders from stdin."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks import records

Enqueue = Callable[[int, float, "float | None"], object]

# What an order and its answer hold, as JSON:
#   first, count  the numbers of the jobs
#   gap           seconds between two calls; 0: one directly after the other
#   wait          whether to wait, before each next call, until the job before has run; seconds at most in total
#   delay         [least, most] seconds from now at which the jobs are due, spread evenly; absent: at once
# answer: took    seconds of each call
#         cpu     seconds of processor time of this process for all calls
#         began   when the first call began, seconds since 1970
#         number  how many jobs were enqueued


def carry_out(enqueue: Enqueue, order: dict[str, Any]) -> dict[str, Any]:
    """Enqueue the jobs of one order, and measure each call."""
    numbers = range(order["first"], order["first"] + order["count"])
    gap, wait, delay = order.get("gap", 0.0), order.get("wait", 0.0), order.get("delay")
    took: list[float] = []
    pauses = random.Random(order["first"])  # jittered, so that no rival's polling interval meets them in step
    cpu, began, next_at = time.process_time(), time.time(), time.monotonic()
    until = next_at + wait
    for number in numbers:
        stamp = time.time()
        due = None
        if delay is not None:
            stamp = due = stamp + delay[0] + (delay[1] - delay[0]) * (number - order["first"]) / len(numbers)
        start = time.perf_counter()
        enqueue(number, stamp, due)
        took.append(time.perf_counter() - start)
        if wait:
            while records.count(os.environ[records.VARIABLE]) < order["ran"] + len(took):
                if time.monotonic() > until:
                    break
                time.sleep(0.001)
            if time.monotonic() > until:
                break
            time.sleep(gap * pauses.uniform(0.5, 1.5))
        elif gap:
            next_at += gap * pauses.uniform(0.5, 1.5)
            time.sleep(max(0.0, next_at - time.monotonic()))
    return {"took": took, "cpu": time.process_time() - cpu, "began": began, "number": len(took)}


def main(module: str) -> None:
    """Carry out orders, one in each line, until stdin is closed."""
    site = import_module(module)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a rival prints is no answer
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(carry_out(site.enqueue, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
