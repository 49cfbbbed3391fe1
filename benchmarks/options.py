"""The price of a job with an option beside that of a plain one, in turn, in one process: enqueued and run.

    .venv/bin/python -m benchmarks.options [JOBS] [ROUNDS] [OPTION ...]

Prints for each option the ratio of the whole of a job, its call and its run, in user instructions and in CPU time; that
of the instructions, which other programs hardly disturb, must be at most the bar. Ends with status 1 if one is not.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flask import Flask

from benchmarks import machine
from spoolkit import Limit, SpoolKit, application, spool
from spoolkit.admin import keys
from spoolkit.coordination import limits, pauses
from spoolkit.encoding import packet
from spoolkit.job import JobSpec, new_id
from spoolkit.lifecycle import sweeping
from spoolkit.spooldir import parked, spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations


@dataclass(frozen=True)
class Option:
    """What distinguishes a job from a plain one."""

    #: What ``@spool`` gets.
    task: Mapping[str, Any] = field(default_factory=dict)
    #: What ``.using()`` gets.
    call: Mapping[str, Any] = field(default_factory=dict)
    #: Done once, before the first round, with the spooler: what the jobs run beside.
    before: Callable[[Spooler], object] | None = None
    #: The greatest ratio of the whole of a job.
    bar: float = 1.3


def park(spooler: Spooler) -> None:
    """Let a job wait under each of 10,000 keys of a limit."""
    sweeping.run(spooler.spool_dir)  # the next one, after 30 s, would find that nobody runs under these keys
    for number in range(10_000):
        _park(spooler.spool_dir, limits.group(f"key {number}"), "parked")


def pause(spooler: Spooler) -> None:
    """Let 10,000 jobs of a paused task wait."""
    sweeping.run(spooler.spool_dir)
    pauses.pause(spooler.spool_dir, "paused")
    for _ in range(10_000):
        _park(spooler.spool_dir, pauses.group("paused"), "paused")


def _park(spool_dir: str, group: str, task: str) -> None:
    folder = parked.folder(spool_dir, group)
    os.makedirs(folder, 0o700, exist_ok=True)
    job = JobSpec(new_id(), task, enqueued_at=time.time())
    spoolfile.write(folder, job.id, packet.dump_job(job, b"[[],{}]"))


OPTIONS: dict[str, Option] = {
    "plain": Option(bar=1.05),  # how much the machine disturbs
    "unique": Option(task={"unique": ("number",)}),
    "headers": Option(call={"headers": {"request": "0123456789abcdef"}}),
    "expires": Option(call={"expires": 3600}),
    "limit": Option(task={"limit": Limit(3, key=lambda number: number)}),
    "held": Option(call={"after_commit": True}),
    "parked": Option(before=park, bar=1.05),
    "paused": Option(before=pause, bar=1.05),
}
"""One line for each."""

Price = tuple[float, float]
"""Thousands of user instructions of this process, and microseconds of its CPU, for each job."""


def main() -> int:
    sizes = [int(text) for text in sys.argv[1:] if text.isdigit()]
    jobs, rounds = [*sizes, *(2000, 5)[len(sizes) :]][:2]
    chosen = [text for text in sys.argv[1:] if not text.isdigit()] or list(OPTIONS)
    logging.basicConfig(level=logging.WARNING)
    print(f"{jobs} jobs, {rounds} rounds in turn: with the option ÷ plain, in instructions (in CPU time)")
    missed = [name for name in chosen if not measure(name, OPTIONS[name], jobs, rounds)]
    return int(bool(missed))


def measure(name: str, option: Option, jobs: int, rounds: int) -> bool:
    """Print what an option costs. Returns whether that is within its bar."""
    count = machine.instructions()
    prices: dict[str, list[tuple[Price, Price]]] = {"whole": [], "call": [], "run": []}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=machine.directory()) as folder:
        # Each has a directory of its own, so that what lies in one costs the other nothing.
        sites = [_site(folder, f"{name}.without", Option()), _site(folder, f"{name}.with", option)]
        for done in range(rounds):
            numbers = range(1 + done * jobs, 1 + (done + 1) * jobs)
            pairs = [_prices(site, numbers, count) for site in sites]
            for index, what in enumerate(("call", "run")):
                prices[what].append((pairs[0][index], pairs[1][index]))
            prices["whole"].append((_sum(*pairs[0]), _sum(*pairs[1])))
    ratios = {
        what: [statistics.median(other[unit] / plain[unit] for plain, other in found if plain[unit]) for unit in (0, 1)]
        for what, found in prices.items()
    }
    ratio = ratios["whole"][0]
    shown = ", ".join(f"{what} {one:.2f} ({other:.2f})" for what, (one, other) in ratios.items())
    print(f"{name:10} {shown}; at most {option.bar}: {'yes' if ratio <= option.bar else 'NO'}")
    return ratio <= option.bar


class _Site(NamedTuple):
    app: Flask
    spooler: Spooler
    call: Callable[[int, str], object]


def _site(folder: str, name: str, option: Option) -> _Site:
    app = Flask(name)
    app.config.update(SPOOLKIT_SPOOL=os.path.join(folder, name))
    SpoolKit(app).on_commit = lambda publish: publish()  # a transaction that is committed after each call

    @spool(name=name, **option.task)
    def task(number: int, text: str) -> None: ...

    site = _Site(app, Spooler(os.path.join(folder, name)), task.using(**option.call) if option.call else task)
    with app.app_context():
        site.call(0, "the first job makes the folders")
        site.spooler.run_due()
        if option.before is not None:
            option.before(site.spooler)
    return site


def _prices(site: _Site, numbers: range, count: Callable[[], int]) -> tuple[Price, Price]:
    def price(work: Callable[[], object]) -> Price:
        begun, instructions = time.process_time(), count()
        work()
        instructions, seconds = count() - instructions, time.process_time() - begun
        return instructions / len(numbers) / 1e3, seconds / len(numbers) * 1e6

    with site.app.app_context():
        called = price(lambda: [site.call(number, "short") for number in numbers])
        return called, price(lambda: _run(site.spooler, len(numbers)))


def _sum(one: Price, other: Price) -> Price:
    return one[0] + other[0], one[1] + other[1]


def _run(spooler: Spooler, jobs: int) -> None:
    """What spoolers do: they run the jobs, and from time to time remove the keys of unique tasks."""
    spooler.run_due()
    for _ in range(jobs // 200):
        keys.last_removal.set(-keys.INTERVAL)
        keys.remove_some(locations.store(), application.settings())


if __name__ == "__main__":
    sys.exit(main())
