"""The tasks of this site: one of each kind."""

import time
from collections.abc import Callable

from uwsgi_tasks import TaskExecutor
from uwsgi_tasks import task as uwsgi_tasks_declare

import spool_args  # noqa: F401 - registers the application's own types
from spoolkit import current_job, spool, thread


def threaded_task(duration: int) -> None:
    """Work in a plain thread: it is not recorded, not limited, and a stop does not wait for it."""
    count("Working...", duration)


@thread
def uwsgi_task(duration: int) -> None:
    """Work in a thread of this process, in the application's context."""
    count("Working in uwsgi thread...", duration)


@spool(retries=3)
def spool_task(duration: int) -> None:
    """Work in a spooler. The job is on disk, and runs again, up to three times, if it fails or its process dies."""
    job = current_job()
    count("Working in uwsgi spool...", duration, report=lambda done: job.progress(done, duration, "seconds"))


@uwsgi_tasks_declare(executor=TaskExecutor.SPOOLER, retry_count=3, retry_timeout=5)
def uwsgi_tasks_task(duration: int) -> None:
    """The same, declared with the uwsgi-tasks library. RetryTaskException runs it again, up to three runs in total."""
    count("Working in uwsgi tasks...", duration)


def count(doing: str, duration: int, report: Callable[[int], object] = lambda done: None) -> None:
    """Count the seconds: print each, and ``report`` how many have passed."""
    for i in range(1, duration + 1):
        print(f"{doing} {i}/{duration}", flush=True)
        time.sleep(1)
        report(i)
