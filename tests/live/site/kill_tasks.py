"""Tasks that end in every way there is, and the site that takes them: POST /call/<task> with {"args"}."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from history import record

from spoolkit import SPOOL_RETRY, Abort, Batch, JobTimeout, Limit, Rate, Retry, SpoolKit, chain, current_job, spool
from spoolkit.encoding import packet
from spoolkit.job import JobSpec
from spoolkit.spooldir import batches, later, spoolfile, unique
from spoolkit.store import Store
from spoolkit.uwsgi import bridge

app = Flask(__name__)
SpoolKit(app)


@app.post("/call/<name>")
def call(name: str) -> Response:
    asked = request.get_json()
    task = globals()[name]
    return jsonify(job=task.using(**asked.get("using", {}))(*asked["args"]).id)


@app.post("/map/<name>")
def map_rows(name: str) -> Response:
    asked = request.get_json()
    jobs = globals()[name].map([tuple(row) for row in asked["args"]], spread=asked.get("spread", 0))
    return jsonify(jobs=[job.id for job in jobs])


def die_once(moment: str) -> None:
    """Kill this process with SIGKILL at a step of the expansion of a chunk, once for all processes of the site.

    Args:
        moment: A function of ``os``, ``before`` or ``after``, and which of its calls for chunks, counted from 1 in each
            process: ``rename after 3``.
    """
    name, when, number = moment.split()
    real, left = getattr(os, name), int(number)

    def call(*args: Any, **given: Any) -> Any:
        nonlocal left
        here = any(str(one).endswith((".chunk", ".staged")) or "/chunks/" in str(one) for one in args)
        here &= bridge.is_spooler()
        left -= here
        if here and left == 0 and when == "before":
            die()
        value = real(*args, **given)
        if here and left == 0 and when == "after":
            die()
        return value

    def die() -> None:
        with contextlib.suppress(FileExistsError):
            Path(os.environ["HISTORY"]).with_name("died").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, name, call)


if os.environ.get("DIE_ONCE"):
    die_once(os.environ["DIE_ONCE"])


@contextlib.contextmanager
def noted() -> Iterator[int]:
    """Write down the start and the end of this attempt, and ``twice`` where an earlier one still goes on."""
    job = current_job()
    for pid in left_open(job.id):
        if pid != os.getpid() and is_alive(pid):
            record("twice", job.id, pid)
    print(f"this is attempt {job.attempt}")
    record("start", job.id, job.attempt)  # after the line: a test kills the process as soon as it reads this
    try:
        yield job.attempt
    finally:
        record("end", job.id, job.attempt)


def left_open(id: str) -> set[int]:
    """The processes that began this job and did not write down an end."""
    open_in: set[int] = set()
    history = Path(os.environ["HISTORY"])
    for line in history.read_text().splitlines() if history.exists() else []:
        _, pid, what, *words = line.split(" ")
        if words[:1] == [id]:
            (open_in.add if what == "start" else open_in.discard)(int(pid))
    return open_in


def open_own_file() -> None:
    (path,) = Path(os.environ["SPOOLKIT_SPOOL"]).glob(f"uwsgi_spoolfile_on_{current_job().id}*")
    path.open().close()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@spool(retries=2, backoff=0.2)
def innocent(seconds: float = 0.0) -> None:
    with noted():
        time.sleep(seconds)


@spool(retries=2, backoff=0.2)
def raises() -> None:
    with noted():
        raise ValueError("no luck")


@spool(retries=2, backoff=0.2)
def raises_twice() -> int:
    with noted() as attempt:
        if attempt < 3:
            raise ValueError("no luck yet")
        return attempt


@spool(retries=2, backoff=0.2)
def returns_retry() -> object:
    with noted():
        return SPOOL_RETRY


@spool(retries=2, backoff=60)
def raises_retry() -> None:
    with noted():
        raise Retry(delay=0.3, reason="not yet")


@spool(retries=2, backoff=0.2)
def aborts() -> None:
    with noted():
        raise Abort("it makes no sense")


@spool(retries=2, backoff=0.2)
def exits() -> None:
    with noted():
        sys.exit(3)


@spool(retries=2, backoff=0.2)
def interrupted() -> None:
    with noted():
        raise KeyboardInterrupt


@spool(retries=2, backoff=0.2)
def out_of_memory() -> None:
    with noted():
        bytearray(sys.maxsize)


@spool(retries=2, backoff=0.2)
def kills_itself() -> None:
    with noted():
        os.kill(os.getpid(), signal.SIGKILL)


@spool(retries=2, backoff=0.2)
def segfaults() -> None:
    with noted():
        ctypes.string_at(0)


@spool(retries=2, backoff=0.2)
def dumps_core() -> None:
    with noted():
        os.abort()


@spool(retries=2, backoff=0.2)
def exits_at_once() -> None:
    with noted():
        os._exit(0)


@spool(retries=2, backoff=0.2, timeout=1.0)
def sleeps_too_long() -> None:
    with noted():
        time.sleep(60)


@spool(retries=1, backoff=0.2, timeout=1.0)
def goes_on_after_its_timeout() -> None:
    with noted():
        while True:
            with contextlib.suppress(JobTimeout):
                time.sleep(60)


@spool(retries=1, backoff=0.2, timeout=1.0)
def counts_in_c() -> None:
    """One call of C that never looks up, with the GIL in its hands."""
    with noted():
        sum(range(10**12))


@spool(retries=2, backoff=0.2)
def opens_its_own_file() -> None:
    """Drops the lock that uWSGI has on the file."""
    with noted():
        open_own_file()
        time.sleep(1.5)


@spool(retries=2, backoff=0.2)
def waits_for_its_killer() -> None:
    with noted() as attempt:
        if attempt == 1:
            time.sleep(60)


@spool(retries=2, backoff=0.2)
def waits_for_its_release(then: str = "return", drops_its_lock: bool = False) -> None:
    """Goes on for as long as there is no file ``released`` beside the history, and ends as ``then`` says."""
    with noted():
        if drops_its_lock:
            open_own_file()
        while not Path(os.environ["HISTORY"]).with_name("released").exists():
            time.sleep(0.01)
        if then == "raise":
            raise ValueError("no luck")
        if then == "kill":
            os.kill(os.getpid(), signal.SIGKILL)


def _die_moving(moment: str) -> None:
    """Kill the process that moves delayed jobs in: once, at the first job, ``before`` or ``after`` its rename."""
    move_in = later.move_in

    def move_and_die(path: str, spool_dir: str) -> int:
        while not Path(os.environ["HISTORY"]).with_name("all-accepted").exists():
            time.sleep(0.01)
        if moment == "after":
            move_in(path, spool_dir)
        with contextlib.suppress(FileExistsError):
            Path(os.environ["HISTORY"]).with_name("died").touch(exist_ok=False)
            record("dies", moment)
            os.kill(os.getpid(), signal.SIGKILL)
        return move_in(path, spool_dir)

    later.move_in = move_and_die


if moment := os.environ.get("DIES_MOVING"):
    _die_moving(moment)


@app.post("/derived/<id>")
def derived(id: str) -> Response:
    """Write a job whose id follows from something else, as that of a schedule's tick, unless there is one."""
    job = JobSpec(id, innocent.name, enqueued_at=time.time())
    try:
        spoolfile.write(os.environ["SPOOLKIT_SPOOL"], id, packet.dump_job(job, b"[[0.2],{}]"), exclusive=True)
    except FileExistsError:
        return jsonify(accepted=False)
    return jsonify(accepted=True)


@spool(retries=9, backoff=0.1, limit=Limit(2, key=lambda key: key))
def limited(key: str, held: bool = False) -> None:
    """``held``: it does not end before there is a file ``go``."""
    with noted():
        while held and not Path(os.environ["HISTORY"]).with_name("go").exists():
            time.sleep(0.01)


@spool(retries=9, backoff=0.1, rate=Rate(2, per=1))
def paced(n: int) -> None:
    with noted():
        pass


def _die_renaming(moment: str) -> None:
    """Kill a spooler that moves a file ``in`` to or ``out`` of a folder, once, ``before`` or ``after`` that."""
    way, folder, when = moment.split()
    rename = os.rename

    def rename_and_die(old: str, new: str) -> None:
        here = bridge.is_spooler() and f"/{folder}/" in str(new if way == "in" else old)
        if when == "after":
            rename(old, new)
        if here:
            with contextlib.suppress(FileExistsError):
                Path(os.environ["HISTORY"]).with_name("died").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        if when == "before":
            rename(old, new)

    os.rename = rename_and_die  # type: ignore[assignment]


if moment := os.environ.get("DIES_RENAMING"):
    _die_renaming(moment)


@app.post("/batch")
def batch() -> Response:
    """Enqueue a batch of three jobs with a callback."""
    with Batch("three", then=innocent.call(0.01)) as made:
        jobs = [made.add(innocent, 0.01) for _ in range(3)]
        record("made", made.id, *[job.id for job in jobs])
    return jsonify(batch=made.id, jobs=[job.id for job in jobs])


def _die_batching(moment: str) -> None:
    """Kill the process that makes a batch, once: its files are ``staged``, it is ``recorded``, a file is ``moved``."""
    names = {"staged": (batches, "stage"), "recorded": (Store, "accept_batch"), "moved": (later, "place")}
    owner, name = names[moment]
    call = getattr(owner, name)

    def call_and_die(*args: Any, **options: Any) -> Any:
        value = call(*args, **options)
        with contextlib.suppress(FileExistsError):
            Path(os.environ["HISTORY"]).with_name("died").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(owner, name, call_and_die)


if moment := os.environ.get("DIES_BATCHING"):
    _die_batching(moment)


@app.post("/chain")
def three_in_a_row() -> Response:
    """Enqueue a chain of three jobs."""
    return jsonify(jobs=[job.id for job in chain(*[innocent.call(0.01)] * 3).jobs])


def _die_linking(moment: str) -> None:
    """Kill the process that links a file to its name, once, ``before`` or ``after`` it does so."""
    link = os.link

    def link_and_die(old: str, new: str) -> None:
        if spoolfile.PREFIX not in new:
            return link(old, new)  # a spooler that starts looks whether the file system has links
        if moment == "after":
            link(old, new)
        with contextlib.suppress(FileExistsError):
            Path(os.environ["HISTORY"]).with_name("died").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        return link(old, new)

    os.link = link_and_die  # type: ignore[assignment]


if moment := os.environ.get("DIES_LINKING"):
    _die_linking(moment)


def _die_finishing(moment: str) -> None:
    """Kill the spooler that removes the file of a job, once, ``before`` or ``after`` it does so."""
    finish = spoolfile.finish

    def finish_and_die(path: str) -> None:
        if moment == "after":
            finish(path)
        with contextlib.suppress(FileExistsError):
            Path(os.environ["HISTORY"]).with_name("died").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        finish(path)

    spoolfile.finish = finish_and_die


if moment := os.environ.get("DIES_FINISHING"):
    _die_finishing(moment)


@spool(unique=("key",), until="start", on_duplicate="replace")
def debounced(key: str, seconds: float) -> None:
    with noted():
        record("slept", current_job().id, seconds)


def _die_calling(moment: str) -> None:
    """Kill a process that calls a unique task, once, at a moment of the call."""

    def die() -> None:
        with contextlib.suppress(FileExistsError):
            Path(os.environ["HISTORY"]).with_name("died").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)

    rename, take = os.rename, unique.take

    def rename_and_die(old: str, new: str) -> None:
        rename(old, new)
        # A job that is replaced moves under its next name, and the new content is renamed over it.
        is_content = os.path.basename(old).startswith(spoolfile.TEMPORARY)
        if new.endswith(".1") and f"/{later.FOLDER}/" in new and moment == ("replaced" if is_content else "half way"):
            die()

    def take_and_die(*args: Any, **options: Any) -> None:
        take(*args, **options)
        if moment == "key written":
            die()

    os.rename = rename_and_die  # type: ignore[assignment]
    unique.take = take_and_die


if moment := os.environ.get("DIES_CALLING"):
    _die_calling(moment)
