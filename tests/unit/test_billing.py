"""What an attempt took: processor time, memory, the time it waited."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from time import process_time, thread_time
from typing import Any

import pytest

from spoolkit import Job, Retry, current_job, spool, thread
from spoolkit.attempt import billing
from spoolkit.job import JobSpec
from spoolkit.store import locations
from spoolkit.system import clock

MEGABYTE = 1024 * 1024
BURN = "import time\nwhile time.process_time() < 0.2: pass"


def burn(seconds: float, now: Callable[[], float] = process_time) -> None:
    end = now() + seconds
    while now() < end:
        pass


@spool
def burns(seconds: float) -> None:
    burn(seconds)


@spool(backoff=0)
def burns_twice() -> None:
    job = current_job()
    assert job is not None
    burn(0.02 * job.attempt)
    if job.attempt == 1:
        raise Retry(delay=0)


@thread
def burns_in_a_thread(seconds: float) -> None:
    burn(seconds, thread_time)


def take(size: int) -> None:
    assert bytearray(b"x") * size


def in_a_process(what: str) -> str:
    """What ``what`` prints in a process that was forked, as a spooler is: the mark is of all of it."""
    script = f"""
import os
from spoolkit.attempt import billing
MEGABYTE = {MEGABYTE}
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
{what}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_the_bill_has_the_processor_time_of_the_process_and_of_its_children() -> None:
    meter = billing.start(owns_process=True)
    burn(0.05)
    own = meter.bill().cpu
    assert own is not None
    assert own >= 0.05
    meter = billing.start(owns_process=True)
    subprocess.run([sys.executable, "-c", BURN], check=True, timeout=60)
    with_child = meter.bill().cpu
    assert with_child is not None
    assert with_child >= 0.2
    assert (billing.start(owns_process=True).bill().cpu or 0.0) < 0.2, "the child is not on the next bill as well"


def test_the_memory_of_a_large_attempt_is_not_that_of_the_next_one() -> None:
    sizes = in_a_process(
        """
import time
def attempt(size):
    meter = billing.start(owns_process=True)
    taken = bytearray(b"x") * size
    time.sleep(2 * billing.SHORT)
    del taken
    return meter.bill().memory
small = attempt(1)
print(small, attempt(30 * MEGABYTE), attempt(1))
"""
    )
    small, large, after = map(int, sizes.split())
    assert large - small > 25 * MEGABYTE
    assert after - small < 10 * MEGABYTE


@pytest.mark.matrix
def test_memory_that_is_given_back_later_is_on_no_bill_after_ten_seconds() -> None:
    sizes = in_a_process(
        """
import time
billing.MAX_AGE = 0
def bill():
    meter = billing.start(owns_process=True)
    time.sleep(2 * billing.SHORT)
    return meter.bill().memory
kept = bytearray(b"x") * 30 * MEGABYTE
first = bill()
del kept
bill()
print(first, bill())
"""
    )
    first, last = map(int, sizes.split())
    assert first - last > 25 * MEGABYTE


@pytest.mark.matrix
def test_a_process_that_may_not_set_the_mark_back_tells_only_what_it_knows() -> None:
    sizes = in_a_process(
        """
import os, time
opened = os.open
def refuse(path, *args):
    if "clear_refs" in path:
        raise PermissionError(path)
    return opened(path, *args)
os.open = refuse
def attempt(size):
    meter = billing.start(owns_process=True)
    taken = bytearray(b"x") * size
    time.sleep(2 * billing.SHORT)
    return meter.bill().memory
print(attempt(30 * MEGABYTE) // MEGABYTE >= 25, attempt(1), attempt(60 * MEGABYTE) // MEGABYTE >= 55)
"""
    )
    assert sizes == "True None True\n"


def test_a_thread_pays_for_itself_alone() -> None:
    other = threading.Thread(target=burn, args=(0.2, thread_time))
    meter = billing.start(owns_process=False)
    other.start()
    other.join(60)
    bill = meter.bill()
    assert bill.cpu is not None
    assert bill.cpu < 0.2
    assert bill.memory is None


def attempts(job: Job[Any]) -> list[tuple[float | None, float | None, int | None]]:
    return [(attempt.waited, attempt.cpu, attempt.memory) for attempt in Job.get(job.id).attempts]


def test_each_attempt_has_its_bill_and_the_row_their_sum(directory: str, work: Callable[[], None]) -> None:
    done, tried_again = burns(0.02), burns_twice()
    work()
    work()
    ((waited, cpu, _),) = attempts(done)
    assert waited is not None
    assert waited >= 0
    assert cpu is not None
    assert cpu >= 0.015
    bills = attempts(tried_again)
    assert [cpu is not None and cpu >= 0.015 * number for number, (_, cpu, _) in enumerate(bills, 1)] == [True, True]
    (row,) = locations.store().read("SELECT cpu FROM jobs WHERE id = ?", (tried_again.id,))
    assert row["cpu"] == pytest.approx(sum(cpu or 0.0 for _, cpu, _ in bills))


def test_an_attempt_waited_since_it_was_due(directory: str) -> None:
    store, now = locations.store(), clock.now()
    for id, job, waited in (
        ("a" * 32, JobSpec("a" * 32, "t", enqueued_at=now - 50), 50),
        ("b" * 32, JobSpec("b" * 32, "t", enqueued_at=now - 50, run_at=now - 20), 20),
        ("c" * 32, JobSpec("c" * 32, "t", enqueued_at=now - 50, run_at=now + 20), 0),
    ):
        store.claim(job, file=None, still_there=lambda: True, max_attempts=3)
        ((found, *_),) = attempts(Job(id, "t"))
        assert found == pytest.approx(waited, abs=10)


def test_a_thread_job_has_the_time_of_its_thread(directory: str) -> None:
    job = burns_in_a_thread(0.02)
    job.wait(60)
    ((waited, cpu, memory),) = attempts(job)
    assert waited is not None
    assert cpu is not None
    assert cpu >= 0.02
    assert memory is None
