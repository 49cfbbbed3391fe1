"""How many requests each server serves at once: the table of docs/choosing.md.

    .venv/bin/python benchmarks/at_once.py

32 visitors send requests at the same time. "At once" is the greatest number of waiting requests (0.3 s each) that were
in progress at one moment. "Computing" is the rate of requests that compute in Python, relative to one process with one
thread.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests")]

from any_server import CommandServer  # noqa: E402
from uwsgi_server import UwsgiServer  # noqa: E402

VISITORS = 32
COMPUTING = 96

UWSGI = ["uwsgi", "--http-socket", "127.0.0.1:{port}", "--module", "at_once_site:app", "--master", "--disable-logging"]
GUNICORN = ["gunicorn", "--bind", "127.0.0.1:{port}", "at_once_site:app"]
FLASK = ["flask", "--app", "at_once_site", "run", "--port", "{port}"]

WAYS = {
    "uWSGI `processes = 1`": [*UWSGI, "--processes", "1"],
    "uWSGI `processes = 1`, `threads = 4`": [*UWSGI, "--processes", "1", "--threads", "4"],
    "uWSGI `processes = 4`": [*UWSGI, "--processes", "4"],
    "uWSGI `processes = 2`, `threads = 4`": [*UWSGI, "--processes", "2", "--threads", "4"],
    "gunicorn `--workers 1`": [*GUNICORN, "--workers", "1"],
    "gunicorn `--workers 4`": [*GUNICORN, "--workers", "4"],
    "gunicorn `--workers 1 --threads 4`": [*GUNICORN, "--workers", "1", "--threads", "4"],
    "gunicorn `--workers 2 --threads 4`": [*GUNICORN, "--workers", "2", "--threads", "4"],
    "`flask run`": FLASK,
    "`flask run --without-threads`": [*FLASK, "--without-threads"],
}


def ask(server: UwsgiServer, path: str) -> tuple[float, float]:
    """Ask until there is an answer, and give the times of the request in the server."""
    while True:
        with contextlib.suppress(OSError):
            began, ended = server.get(path).json
            return began, ended


def at_once(spans: list[tuple[float, float]]) -> int:
    """The greatest number of spans that overlap."""
    changes = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def measure(command: list[str]) -> tuple[int, float]:
    """How many requests were served at once, and how many that compute are done in a second."""
    with (
        tempfile.TemporaryDirectory(prefix="at-once-") as name,
        ThreadPoolExecutor(VISITORS) as visitors,
        CommandServer(Path(name), command, cwd=HERE, env={"PYTHONPATH": str(HERE)}) as server,
    ):
        # Twice, so that all processes are up.
        for _ in range(2):
            spans = list(visitors.map(lambda _: ask(server, "/wait"), range(VISITORS)))
        began = time.monotonic()
        list(visitors.map(lambda _: ask(server, "/compute"), range(COMPUTING)))
        return at_once(spans), COMPUTING / (time.monotonic() - began)


def main() -> None:
    base = 0.0
    print(f"| {os.cpu_count()} cores, {VISITORS} visitors | at once | computing |\n|---|---|---|")
    for way, command in WAYS.items():
        most, rate = measure(command)
        base = base or rate
        print(f"| {way} | {most} | {rate / base:.1f} |", flush=True)


if __name__ == "__main__":
    main()
