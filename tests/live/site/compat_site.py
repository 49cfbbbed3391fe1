"""A site that is declared with uwsgidecorators: the module of that name, or the one that LIBRARY names."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from typing import Any

from flask import Flask
from history import record, runs_so_far

library = importlib.import_module(os.environ.get("LIBRARY", "uwsgidecorators"))

app = Flask(__name__)

if library.__name__.startswith("spoolkit"):
    from spoolkit import SpoolKit

    SpoolKit(app)
    app.config["TIMERS_ARE_JOBS"] = "uwsgi" not in sys.modules


def shown(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr).replace(" ", "_")


@library.spool
def of_dict(arguments: dict[str, Any]) -> str:
    assert arguments.pop("spooler_task_name").startswith("uwsgi_spoolfile_on_")
    assert arguments.pop("spooler", os.environ["SPOOLKIT_SPOOL"]) == os.environ["SPOOLKIT_SPOOL"]
    record("of_dict", shown(arguments))
    return "nobody reads it"


@library.spool(pass_arguments=True)
def of_arguments(*args: Any, **kwargs: Any) -> None:
    record("of_arguments", shown([args, kwargs]))


@library.spoolraw
def raw(arguments: dict[str, Any]) -> int:
    record("raw", arguments["word"])
    return -2 if arguments["word"] == "ok" or runs_so_far("raw retry") > 1 else -1


@library.spool
def says_retry(arguments: dict[str, Any]) -> None:
    record("says_retry")
    arguments["ud_spool_ret"] = "-1" if runs_so_far("says_retry") < 2 else "-2"


@library.spoolforever
def forever(arguments: dict[str, Any]) -> None:
    record("forever", arguments["word"])


@library.spool
def failing(arguments: dict[str, Any]) -> None:
    record("failing")
    raise ValueError("of the application's own")


def due() -> list[object]:
    """The due time of the job that calls a timer, where that is a job."""
    if "spoolkit" not in app.extensions or not app.config.get("TIMERS_ARE_JOBS"):
        return []
    from spoolkit import current_job

    return [current_job().run_at]


@library.timer(1, signum=17)
def every_second(signum: int) -> None:
    record("timer", signum, *due())


@library.rbtimer(1, signum=18)
def every_second_too(signum: int) -> None:
    record("rbtimer", signum)


for _number, _fields in enumerate(json.loads(os.environ.get("CRONS", "[]"))):

    @library.cron(*_fields, signum=100 + _number)
    def fired(signum: int) -> None:
        record("fired", signum - 100)


@library.thread
def in_thread(word: str) -> None:
    record("thread", word, threading.current_thread().daemon)


@library.postfork
def forked() -> None:
    record("postfork")


@library.lock
def locked(word: str) -> str:
    record("locked", word, "begins")
    time.sleep(0.2)
    record("locked", word, "ends")
    return word


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.post("/lock/<word>")
def lock(word: str) -> str:
    return locked(word)


@app.post("/forever")
def start_forever() -> str:
    forever.spool(word="again")
    return "done"


@app.post("/fail")
def fail() -> str:
    failing.spool({})
    return "done"


@app.post("/stock-file/<word>")
def stock_file(word: str) -> str:
    """Enqueue as a site did before the import was changed, from a process of uWSGI."""
    import uwsgi

    uwsgi.spool({b"ud_spool_func": b"of_dict", b"ud_spool_ret": b"-2", b"word": word.encode(), b"body": b"the body"})
    return "done"


@app.post("/calls")
def calls() -> str:
    of_dict.spool({b"a": "b", "c": b"d"}, e="é", body=b"the body")
    of_dict(at="1", word="past")
    of_dict.spool(spooler=os.environ["SPOOLKIT_SPOOL"], word="here")
    of_dict({})
    of_arguments(1, [2, "three"], four=None)
    of_arguments("delayed", at=b"1")
    raw.spool(word="ok")
    assert in_thread("word") is in_thread.f
    for call in (lambda: of_dict(n=5), lambda: of_dict("text"), lambda: of_arguments(1, at=object())):
        try:
            call()
        except ValueError:
            record("refused")
    return "done"


@app.post("/retries")
def retries() -> str:
    raw.spool(word="retry")
    says_retry()
    return "done"


if "mules" in os.environ.get("MORE", ""):

    @library.mule(1)
    def in_mule() -> None:
        record("mule")

    @library.muleloop(2)
    def in_loop() -> None:
        record("muleloop")
        time.sleep(0.2)

    @library.mulefunc
    def by_mule(word: str) -> None:
        record("mulefunc", word)

    @app.post("/mule/<word>")
    def mule(word: str) -> str:
        by_mule(word)
        return "done"


if "uwsgi" in os.environ.get("MORE", ""):  # what exists under uWSGI alone

    @library.signal(20)
    def signalled(signum: int) -> None:
        record("signal", signum)

    @library.rpc("double")
    def double(word: bytes) -> bytes:
        return word * 2

    @library.harakiri(30)
    def bounded() -> str:
        return "bounded"

    @app.post("/more")
    def more() -> str:
        import uwsgi

        uwsgi.signal(20)
        record("harakiri", bounded())
        return "done"
