"""The jobs of the site, declared with uWSGI's own decorators and with the library uwsgi-tasks."""

import uwsgi
import work
from uwsgi_tasks import RetryTaskException, TaskExecutor, task
from uwsgi_tasks.tasks import manage_spool_request as run_library_task
from uwsgidecorators import manage_spool_request as run_decorated
from uwsgidecorators import spool, spoolraw, thread

from spool_args import restore_spooler_args


@thread
def uwsgi_thread(seconds):
    work.count("thread", seconds)


@spool
def uwsgi_spool(args):
    work.count("spool", **restore_spooler_args(args))


@spoolraw  # @spool would ignore what the function returns
def deliver(args):
    delivered = work.send("deliver", **restore_spooler_args(args))
    return uwsgi.SPOOL_OK if delivered else uwsgi.SPOOL_RETRY


@task(executor=TaskExecutor.SPOOLER, retry_count=100, retry_timeout=1)
def announce(order):
    if not work.send("announce", order):
        raise RetryTaskException


def run(job):
    """Each library wants to be the only handler of uWSGI's jobs, and the one imported last would get those of both."""
    return run_library_task(job) if b"function_name" in job else run_decorated(job)


uwsgi.spooler = run
