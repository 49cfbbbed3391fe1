import time

import uwsgi
from history import record, runs_so_far
from uwsgidecorators import spool, spoolforever, spoolraw


@spool
def decorated(env):
    record("ran", env["word"])


@spool(pass_arguments=True)
def with_arguments(words, word):
    record("ran", word)


@spoolraw
def raw(env):
    record("ran", env["word"], env["body"].replace(" ", "-"))
    return uwsgi.SPOOL_OK if runs_so_far("ran raw its-body") > 1 else uwsgi.SPOOL_RETRY


@spoolforever
def forever(env):
    record("ran", env["word"])


@spool
def importing(env):
    record("importing", "starts")
    import with_spoolkit  # noqa: F401 - the first import of spoolkit in this process

    time.sleep(2.5)
    record("importing", "ends")


@spool
def failing(env):
    record("ran", env["word"])
    raise ValueError("of the application's own")


@spool
def slow(env):
    record("slow", "starts")
    time.sleep(1)
    record("slow", "ends")
