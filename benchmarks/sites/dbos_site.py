"""DBOS on SQLite. ``python -m benchmarks.sites.dbos_site`` is the process that runs the jobs, in threads."""

from __future__ import annotations

import functools
import os
import threading
import time

from dbos import DBOS, DBOSClient, EnqueueOptions

from benchmarks.records import ran

URL = f"sqlite:///{os.environ['BENCH_SQLITE']}"
QUEUE, WORKFLOW = "bench", "job"


def main() -> None:
    """Run jobs until this process is killed."""
    DBOS(config={"name": "bench", "system_database_url": URL})
    DBOS.workflow(name=WORKFLOW)(ran)
    DBOS.launch()
    # Without a limit of its own: with one, it runs that many jobs a second, because it asks for jobs once a second.
    DBOS.register_queue(QUEUE)
    print("ready", flush=True)
    threading.Event().wait()


@functools.cache
def client() -> DBOSClient:
    return DBOSClient(system_database_url=URL, application_name="bench")


def enqueue(number: int, stamp: float, due: float | None) -> None:
    options: EnqueueOptions = {"queue_name": QUEUE, "workflow_name": WORKFLOW}
    if due is not None:
        options["delay_seconds"] = due - time.time()
    client().enqueue(options, number, stamp)


if __name__ == "__main__":
    main()
