"""The cost of recording jobs in the store: the same jobs on a real uWSGI with one spooler, with and without it.

    .venv/bin/python benchmarks/store_cost.py [JOBS] [ROUNDS]

Prints the microseconds per job, with and without the store, and their ratio: the median of all rounds.
"""

from __future__ import annotations

import os
import statistics
import struct
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from uwsgi_server import UwsgiServer, wait_until  # noqa: E402


def microseconds_per_job(jobs: int, *, recorded: bool) -> float:
    """Run ``jobs`` jobs that are waiting in the directory; the time from the first to the last, per job."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        spool, times = directory / "spool", directory / "times"
        spool.mkdir(mode=0o700)
        env = {"SPOOLKIT_SPOOL": str(spool), "BENCH_CLOCK": str(times), "PYTHONPATH": str(HERE)}
        os.environ.update(env)
        if not recorded:
            env["BENCH_UNTRACKED"] = "1"
        from bench_site import app, nothing

        with app.app_context():
            for number in range(jobs):
                nothing(number)
        options = [
            "master = true",
            "enable-threads = true",
            "need-app = true",
            f"pythonpath = {HERE}",
            "module = bench_site:app",
            "spooler-quiet = true",
            f"spooler = {spool}",
        ]
        with UwsgiServer(directory, options=options, env=env, spool=spool):
            wait_until(lambda: not list(spool.glob("uwsgi_spoolfile_on_*")), timeout=300)
            first, last = struct.unpack("dd", times.read_bytes())
    return (last - first) / jobs * 1e6


def main() -> None:
    jobs, rounds = (int(text) for text in (sys.argv[1:] + ["2000", "7"][len(sys.argv) - 1 :]))
    with_store, without = [], []
    for _ in range(rounds):
        without.append(microseconds_per_job(jobs, recorded=False))
        with_store.append(microseconds_per_job(jobs, recorded=True))
    ratio = statistics.median(a / b for a, b in zip(with_store, without, strict=True))
    print(f"{jobs} jobs, {rounds} rounds in turn")
    print(f"with the store    {statistics.median(with_store):7.0f} µs per job")
    print(f"without           {statistics.median(without):7.0f} µs per job")
    print(f"ratio             {ratio:7.2f}")


if __name__ == "__main__":
    main()
