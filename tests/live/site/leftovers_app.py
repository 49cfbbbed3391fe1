"""Tasks that leave something behind in their process, and one that looks at it: GET /run/<task>/<what>."""

from __future__ import annotations

import faulthandler
import gc
import io
import locale
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify

from spoolkit import SpoolKit, current_job, spool

app = Flask(__name__)
SpoolKit(app)

kept: list[Any] = []
"""What tasks keep open."""

SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGCHLD", "SIGPROF")


class Left(Exception):
    """Raised by what a task has left behind."""


def _raise(*_: Any, **__: Any) -> Any:
    raise Left


def _alarm() -> None:
    signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)


def _deadly_alarm() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.3)


def _profiling_timer() -> None:
    signal.signal(signal.SIGPROF, _raise)
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)


def _handlers() -> None:
    for name in SIGNALS:
        signal.signal(getattr(signal, name), _raise if name != "SIGUSR1" else signal.SIG_DFL)


def _standard_descriptors() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


def _closed_descriptors() -> None:
    os.close(1)
    os.close(2)


def _limits() -> None:
    for name in ("RLIMIT_FSIZE", "RLIMIT_CPU"):
        resource.setrlimit(getattr(resource, name), (1000, resource.getrlimit(getattr(resource, name))[1]))


def _environment() -> None:
    os.environ.clear()
    os.environ["TZ"] = "Asia/Tokyo"
    os.environ["SPOOLKIT_SPOOL"] = "/elsewhere"
    time.tzset()


def _streams() -> None:
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="latin-1")
    sys.stderr = None  # type: ignore[assignment]


def _closed_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()


def _hooks() -> None:
    sys.excepthook = sys.unraisablehook = threading.excepthook = _raise
    sys.setrecursionlimit(333)
    sys.settrace(lambda *_: None)
    sys.path.clear()
    gc.disable()
    socket.setdefaulttimeout(0.001)


def _logging() -> None:
    logging.setLogRecordFactory(_raise)
    logging.disable(logging.CRITICAL)
    assert not logging.getLogger("shop").isEnabledFor(logging.WARNING)  # which the logger remembers
    logging.raiseExceptions = True


def _wakeup() -> None:
    kept.append(os.pipe())
    os.set_blocking(kept[-1][1], False)
    signal.set_wakeup_fd(kept[-1][1])


def _own_files() -> None:
    os.closerange(3, 1024)
    for number in range(20):
        kept.append(Path(os.environ["OWN_FILES"], str(number)).open("w"))  # noqa: SIM115 - it stays open
    print("said by the task")


def _own_standard_error() -> None:
    os.closerange(0, 1024)
    for number in range(20):
        kept.append(Path(os.environ["OWN_FILES"], str(number)).open("w"))  # noqa: SIM115 - it stays open


def _no_descriptors() -> None:
    try:
        while True:
            kept.append(Path(os.devnull).open())  # noqa: SIM115 - it stays open
    except OSError:
        pass


PUT_BACK: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "alarm": _alarm,
    "deadly alarm": _deadly_alarm,
    "profiling timer": _profiling_timer,
    "handlers": _handlers,
    "signal mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
    "umask": lambda: os.umask(0),
    "environment": _environment,
    "another environment": lambda: setattr(os, "environ", {}),
    "working directory": lambda: os.chdir("/"),
    "streams": _streams,
    "closed streams": _closed_streams,
    "standard descriptors": _standard_descriptors,
    "closed descriptors": _closed_descriptors,
    "soft limits": _limits,
    "hooks": _hooks,
    "logging": _logging,
    "wakeup descriptor": _wakeup,
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "faulthandler": lambda: faulthandler.dump_traceback_later(0.3, exit=True),
    "process group": lambda: os.setpgid(0, 0),
}

REPLACED: dict[str, Callable[[], object]] = {
    "session": os.setsid,
    "own files": _own_files,
    "own standard error": _own_standard_error,
    "no descriptors": _no_descriptors,
    "dead streams": lambda: sys.__stderr__.close(),  # type: ignore[union-attr]
}


@spool(retries=0)
def leave(what: str) -> None:
    (PUT_BACK.get(what) or REPLACED[what])()


@spool(retries=0)
def leave_and_fail(what: str) -> None:
    PUT_BACK[what]()
    raise ValueError("the task's own trouble")


@spool(retries=0)
def look(_: str) -> dict[str, Any]:
    """How a job finds its process."""
    signals = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if "Sig" in line)
    time.sleep(0.5 if _ == "slowly" else 0)
    print("it can print", flush=True)
    sys.stderr.write("and complain\n")
    assert logging.getLogger("shop").isEnabledFor(logging.WARNING)
    return {
        # Without the real-time signals: glibc has some of its own, from a process's first thread on.
        "signals": {key: signals[key][-8:] for key in ("SigBlk", "SigIgn", "SigCgt")},
        "handlers": [repr(getattr(signal.getsignal(getattr(signal, name)), "__name__", 0)) for name in SIGNALS],
        "timers": [signal.getitimer(which) for which in (0, 1, 2)],
        "umask": os.umask(os.umask(0o22)),
        "environment": sorted(os.environ.items()),
        "zone": time.tzname,
        "directory": os.getcwd(),
        "path": sys.path,
        "descriptors": [os.fstat(fd).st_ino for fd in (0, 1, 2)],
        "limits": [resource.getrlimit(which) for which in range(16)],
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "trace": repr(sys.gettrace()),
        "collects": gc.isenabled(),
        "socket": socket.getdefaulttimeout(),
        "hooks": [sys.excepthook.__name__, sys.unraisablehook.__name__, threading.excepthook.__name__],
        "disabled": logging.root.manager.disable,
        "wakeup": signal.set_wakeup_fd(-1),
        "group": os.getpgrp() == os.getpgid(os.getppid()),
        "session": os.getsid(0) == os.getsid(os.getppid()),
    }


@spool(retries=0)
def pid(_: str) -> int:
    logging.getLogger("shop").warning("the site's own line in %s", current_job().id)
    return os.getpid()


def stock(env: dict[str, str]) -> None:
    """A task of uWSGI's own decorators."""
    os.write(2, f"the stock job left {env['what']}\n".encode())
    (PUT_BACK.get(env["what"]) or REPLACED[env["what"]])()


if "uwsgi" in sys.modules:
    import uwsgidecorators

    stock = uwsgidecorators.spool(stock)


@app.get("/stock/<what>")
def enqueue_stock(what: str) -> str:
    stock.spool(what=what)  # type: ignore[attr-defined]
    return what


@app.get("/run/<task>/<what>")
def run(task: str, what: str) -> Response:
    job = globals()[task](what)
    ended = job.wait(timeout=60)
    return jsonify(id=job.id, ended=ended, state=job.state, result=job.result if task in ("look", "pid") else None)
