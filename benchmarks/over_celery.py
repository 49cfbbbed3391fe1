"""What does it cost that jobs run in workers of Celery, and what does a site notice of a broker that is away?

    python -m benchmarks.over_celery [redis] [rabbitmq] [--jobs 2000] [--rounds 3] [--away 60]

For each broker that is installed, in each round in turn: the same site with its jobs in its spoolers and with its jobs
in Celery's workers, and Celery alone (``delay()``, without results), each with four processes that run jobs. Then the
time of a request that enqueues a job, while the broker is there and while it is away, in turn.
Ends with status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import figures, machine
from benchmarks.__main__ import one_round
from benchmarks.contenders import CONSUMERS, Contender, Running, environment, program, started, uwsgi
from benchmarks.figures import Figure, Rounds, percentile
from benchmarks.measures import MEASURES, Size

from brokers import BROKERS, Broker, is_installed, restart  # isort: skip - contenders.py has put tests/ on the path

SPOOL, CELERY, PLAIN = "engine spool", "engine celery", "Celery alone"

ENQUEUE_BAR = 1.2
"""How much longer a call may take with the engine ``celery``. Measured while the consumers are paused: workers of this
machine, which are not at niceness 19 as spoolers are, take processors from the caller that they would not take from
another machine."""

PACE = 0.02
"""Seconds between two requests of the visitor who measures."""

AWAY = tuple(
    Figure(f"{where}_p{percent}", f"Request that enqueues, broker {title}, p{percent}", "ms")
    for where, title in (("there", "there"), ("away", "away"))
    for percent in (50, 99)
)


def in_workers(broker: Broker) -> Callable[[Path], AbstractContextManager[Running]]:
    """The site of the benchmarks, with a worker of Celery."""

    @contextmanager
    def start(directory: Path) -> Iterator[Running]:
        log = directory / "worker.log"
        worker = [sys.executable, "-m", "celery", "-A", "spoolkit.celery", "worker", "-c", str(CONSUMERS)]
        site = "benchmarks.sites.spoolkit_site"
        own = {"FLASK_APP": site, "SPOOLKIT_SPOOL": str(directory / "of_the_worker"), "BENCH_BROKER": broker.url}
        with (
            uwsgi("spoolkit_site", SPOOLKIT_ENGINE="celery", BENCH_BROKER=broker.url)(directory) as running,
            started([*worker, "--loglevel", "WARNING"], directory, log, environment(directory, **own)) as process,
        ):
            assert running.server is not None
            spoolers = running.server.spooler_pids
            yield replace(
                running,
                find=lambda: spoolers() + machine.session(process.pid),
                broker=machine.session(broker.pid),
            )

    return start


def contenders(broker: Broker) -> list[Contender]:
    """Who takes part beside this broker."""
    worker = f"celery -A {{module}} worker -c {CONSUMERS} --loglevel WARNING"
    plain = program("plain_celery_site", Path(sys.executable), worker, redis=False, BENCH_BROKER=broker.url)
    return [
        Contender(CELERY, in_workers(broker)),
        Contender(SPOOL, uwsgi("spoolkit_site")),
        Contender(PLAIN, plain),
    ]


def visit(port: int, seconds: float) -> list[float]:
    """Send a request that enqueues a job every ``PACE`` seconds. Returns the seconds that each answer took.

    Raises:
        RuntimeError: A request was not answered with status 200.
    """
    request = b"GET /dispatch HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
    took, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(request)
            answer = b"".join(iter(lambda connection=connection: connection.recv(65536), b""))
        took.append(time.perf_counter() - begun)
        if not answer.split(b"\r\n", 1)[0].endswith(b"200 OK"):
            raise RuntimeError(answer[:500].decode(errors="replace"))
        time.sleep(PACE)
    return took


def with_broker_away(broker: Broker, files: Path, seconds: float) -> dict[str, float]:
    """The time of a request while the broker is there, and while it is killed; then all jobs run.

    The workers stand still meanwhile: while they run jobs, no processor goes idle, which alone makes requests faster.
    """
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=files) as name,
        in_workers(broker)(Path(name)) as running,
    ):
        assert running.server is not None
        running.warm_up()
        running.order({"numbers_from": running.enqueued})
        values = {}
        workers = set(running.find()) - set(running.server.spooler_pids())
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        for where in ("there", "away"):
            if where == "away":
                broker.kill()
            took = visit(running.server.port, seconds)
            running.enqueued += len(took)
            values |= {f"{where}_p{percent}": percentile(took, percent) * 1000 for percent in (50, 99)}
        restart(broker)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        running.wait()  # none is lost
        return values


def report(measured: Sequence[Figure], results: dict[str, list[dict[str, float]]]) -> bool:
    """Print the tables. Returns whether the bars are met."""
    print(figures.tables(measured, results, CELERY))
    ours: Rounds = results.get(CELERY, ())
    for percent in (50, 99):
        if found := figures.ratios(ours, ours, f"away_p{percent}", f"there_p{percent}"):
            print(f"A request while the broker is away ÷ while it is there, p{percent}: {figures.shown(found)}")
    found = figures.ratios(ours, results.get(SPOOL, ()), "enqueue_paused")
    met = found is None or found.median <= ENQUEUE_BAR
    if found is not None:
        print(f"Enqueue, celery ÷ spool: {figures.shown(found)}; at most {ENQUEUE_BAR}: {'yes' if met else 'NO'}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.over_celery", description=__doc__)
    parser.add_argument("brokers", nargs="*", metavar="BROKER", help=f"of {', '.join(BROKERS)}; the installed ones")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("BENCH_JOBS") or 2000))
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("BENCH_ROUNDS") or 3))
    parser.add_argument("--away", type=float, default=60.0, metavar="SECONDS", help="0: this is not measured")
    given = parser.parse_args()
    if unknown := set(given.brokers) - set(BROKERS):
        parser.error(f"no such broker: {', '.join(sorted(unknown))}")
    files, met = machine.directory(), True
    measured = [*MEASURES["enqueue"].figures, *MEASURES["drain"].figures, *(AWAY if given.away else ())]
    for name in given.brokers or BROKERS:
        if not is_installed(name):
            print(f"{name} is not installed")
            continue
        results: dict[str, list[dict[str, float]]] = {}
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=files))
            broker = stack.enter_context(BROKERS[name](Path(folder)))
            for number in range(given.rounds):
                for one in contenders(broker):
                    print(f"{name}, round {number + 1} of {given.rounds}: {one.name}", file=sys.stderr, flush=True)
                    values, wrong = one_round(one, files, ["enqueue", "drain"], Size(given.jobs), 0)
                    results.setdefault(one.name, []).append(values)
                    if wrong:
                        print(f"{one.name}: {wrong}")
                if given.away:
                    results[CELERY][-1] |= with_broker_away(broker, files, given.away)
        print(f"\n{name}, {given.jobs} jobs, rounds: {given.rounds}\n")
        met &= report(measured, results)
    for key, value in machine.description(files).items():
        print(f"{key}: {value}")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
