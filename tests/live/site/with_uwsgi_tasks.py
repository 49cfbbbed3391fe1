from history import record
from uwsgi_tasks import RetryTaskException, TaskExecutor, task


@task(executor=TaskExecutor.SPOOLER)
def library_task(word):
    record("ran", word)


@task(executor=TaskExecutor.SPOOLER, retry_count=3, retry_timeout=1)
def retried(word):
    record("ran", word)
    raise RetryTaskException


@task(executor=TaskExecutor.SPOOLER)
def broken(word):
    record("ran", word)
    raise ValueError("of the application's own")
