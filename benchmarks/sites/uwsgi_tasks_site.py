"""uwsgi-tasks: ``@task`` with the spooler as its executor; pickled, without a state or a result."""

from __future__ import annotations

from uwsgi_tasks import TaskExecutor, task
from uwsgi_tasks.tasks import SpoolerTask

from benchmarks.records import ran
from benchmarks.sites import web


def work(number: int, stamp: float) -> None:
    ran(number, stamp)


job = task(work, executor=TaskExecutor.SPOOLER)


def enqueue(number: int, stamp: float, due: float | None) -> None:
    if due is None:
        job(number, stamp)
    else:
        SpoolerTask(work, at=int(due))(number, stamp)  # whole seconds only


app = web.site(enqueue)
