"""A program that calls @thread tasks and ends: ``python thread_script.py END JOBS SECONDS``."""

from __future__ import annotations

import os
import signal
import sys
import time

from spoolkit import Job, State, thread


@thread
def work(seconds: float) -> None:
    time.sleep(seconds)


@thread(retries=3, backoff=1000)
def fails() -> None:
    raise ValueError("trouble")


@thread(track=False)
def untracked(seconds: float) -> None:
    time.sleep(seconds)


def wait_for(job: Job, *states: State) -> None:
    deadline = time.monotonic() + 60
    while job.state not in states:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def main(end: str, jobs: int, seconds: float) -> None:
    failed = fails()
    wait_for(failed, State.RETRYING)
    made = [work(seconds) for _ in range(jobs)]
    wait_for(made[0], State.RUNNING, State.DONE)
    made.append(failed)
    untracked(seconds)
    for job in made:
        _ = job.state  # the question makes the row be written now instead of a moment later
    # One line each: the test counts the lines.
    print("\n".join(job.id for job in made), flush=True)
    if end == "fork":
        # A process that a task forks may exit as Python does: it has none of these jobs.
        if os.fork() == 0:
            own = work(0.0)
            wait_for(own, State.DONE)
            print(own.id, flush=True)
            sys.exit(0)
        os.wait()
    elif end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif end == "wait":
        time.sleep(120)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
