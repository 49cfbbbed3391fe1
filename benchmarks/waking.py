"""What waking a spooler costs the caller, beside a bare signal to each, which is what uWSGI itself sends.

Run: ``python benchmarks/waking.py [spoolers ...]``
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from spoolkit.spooldir import spoolers

wake = spoolers.wake
CALLS = 300
ROUNDS = 5

SPOOLER = """
import signal, sys
from spoolkit.spooldir.spoolers import SpoolerFile
signal.signal(signal.SIGUSR1, lambda *_: None)
me = SpoolerFile(sys.argv[1])
print("up", flush=True)
for line in sys.stdin:
    getattr(me, line.strip())()
    print("ok", flush=True)
"""


def each(call: Callable[[], object]) -> float:
    """The median of one call in microseconds."""
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def measure(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", SPOOLER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(count)
        ]
        try:
            for one in started:
                assert one.stdout is not None
                one.stdout.readline()

            def all_of_them() -> None:
                for one in started:
                    os.kill(one.pid, signal.SIGUSR1)

            def tell(word: str) -> None:
                for one in started:
                    assert one.stdin is not None
                    assert one.stdout is not None
                    one.stdin.write(f"{word}\n")
                    one.stdin.flush()
                    one.stdout.readline()

            rows = []
            for _ in range(ROUNDS):
                tell("idle")
                idle = each(lambda: wake(folder))
                # A process that is stopped does not start to run: this is the price without that of the kernel.
                for one in started:
                    os.kill(one.pid, signal.SIGSTOP)
                stopped = each(lambda: wake(folder))
                bare = each(lambda: os.kill(started[0].pid, signal.SIGUSR1))
                for one in started:
                    os.kill(one.pid, signal.SIGCONT)
                stock = each(all_of_them)
                tell("busy")
                busy = each(lambda: wake(folder))
                rows.append((idle, stopped, busy, bare, stock))
            names = ("one idle", "one that is stopped", "all busy", "one bare signal, stopped", "a bare signal to each")
            columns = zip(names, zip(*rows, strict=True), strict=True)
            text = ", ".join(f"{name} {statistics.median(found):.1f} µs" for name, found in columns)
            print(f"{count} spoolers: {text}", flush=True)
        finally:
            for one in started:
                one.kill()
                one.communicate()


if __name__ == "__main__":
    for words in sys.argv[1:] or ("1", "4", "16"):
        measure(int(words))
