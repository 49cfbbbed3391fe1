"""Limits and rates of ``@thread``: counted over all processes; jobs without room wait in memory, without a thread."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from flask import Flask
from life_process import read_pipe, start_child, wait_child
from uwsgi_server import wait_until

from spoolkit import ConfigurationError, Job, Limit, QueueFull, Rate, SpoolKit, State, thread
from spoolkit.admin import actions, lookup
from spoolkit.coordination import limits
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations, write_behind
from spoolkit.system import clock
from spoolkit.threads import engine

KEYS, NUMBER, JOBS = 2, 2, 12

begun: list[object] = []
go = threading.Event()
history = Path()
"""A line for each start and end of a job, as in ``test_limit_storm``."""


def write(*words: object) -> None:
    fd = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


@thread(limit=Limit(1, key=lambda user: user), retries=1, backoff=0.0)
def export(user: int, how: str = "") -> None:
    begun.append((user, how))
    if how == "hold":
        assert go.wait(60)
    elif how == "fail" and begun.count((user, how)) == 1:
        raise ValueError(how)


@thread(limit=Limit(1), overflow="spool")
def or_spool(how: str = "") -> None:
    begun.append(how)
    if how == "hold":
        assert go.wait(60)


@thread(rate=Rate(1, per=0.1))
def paced() -> None: ...


@thread(limit=Limit(NUMBER, key=lambda key: key))
def limited(key: int, process: str, wait: bool = False) -> None:
    write("start", process, key)
    if wait:
        time.sleep(600)  # until it is killed
    write("end", process, key)


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Iterator[Flask]:
    global history
    history = tmp_path / "history"
    begun.clear()
    go.clear()
    app = Flask("the_application", root_path=str(tmp_path))
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_THREADS=2, SPOOLKIT_THREAD_QUEUE=4)
    app.config.update(SPOOLKIT_RETRY_DELAY=0.05)
    SpoolKit(app)
    with app.app_context():
        yield app
    go.set()


@pytest.fixture
def nobody_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoolkit.threads.pool.LOOK_AGAIN", (1000.0, 1000.0))


@pytest.fixture
def nothing_else_runs() -> None:
    """Wait for threads of earlier tests: a process that is forked while one of them is in SQLite may hang there."""
    writer = write_behind.writer()

    def names() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("spoolkit-")}

    wait_until(lambda: names() <= {"spoolkit-write-behind"} and not writer._waiting and not writer._writing.locked())


# Python 3.12 and later.
ignore_threads = pytest.mark.filterwarnings("ignore:.*is multi-threaded, use of fork:DeprecationWarning")


def hold() -> Job:
    job = export(1, "hold")
    wait_until(lambda: (1, "hold") in begun)
    return job


def wait_for(*jobs: Job, state: State = State.DONE) -> None:
    wait_until(lambda: all(job.state is state for job in jobs), message=lambda: str([job.state for job in jobs]))


def has_looked(job: Job) -> bool:
    """Whether a job has found no room: its row has the key then."""
    return lookup.find(job.id).limit_key is not None


@pytest.mark.usefixtures("nobody_looks_again")
def test_jobs_over_the_limit_wait_in_order_without_a_thread_and_follow_at_once() -> None:
    first = hold()
    waiting = [export(1, how) for how in ("fail", "b", "c")]
    wait_for(export(2))  # there are two threads
    wait_until(lambda: has_looked(waiting[0]))
    assert [job.state for job in (first, *waiting)] == [State.RUNNING, *[State.QUEUED] * 3]
    go.set()
    wait_for(first, *waiting)
    # The attempt that failed has left its room to those that had waited for it.
    assert begun == [(1, "hold"), (2, ""), (1, "fail"), (1, "b"), (1, "c"), (1, "fail")]
    assert [lookup.find(job.id).attempt for job in (first, *waiting)] == [1, 2, 1, 1]


@ignore_threads
@pytest.mark.usefixtures("nothing_else_runs")
@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_room_that_comes_in_another_process_is_found(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoolkit.threads.pool.LOOK_AGAIN", (0.05, 0.05))
    started, tell = os.pipe()
    wait, ready = os.pipe()

    def child() -> None:
        os.close(ready)
        hold()
        os.write(tell, b"x")
        os.read(wait, 1)
        go.set()
        engine.close_pool(clock.Deadline(time.monotonic() + 60))

    pid = start_child(child)
    os.close(wait)
    read_pipe(started)
    job = export(1)
    wait_until(lambda: has_looked(job))
    assert job.state is State.QUEUED
    if how == "ends":
        os.close(ready)
        assert wait_child(pid) == 0
    else:
        os.kill(pid, signal.SIGKILL)
        wait_child(pid)
        os.close(ready)
    wait_for(job)
    assert begun == [(1, "")]
    for fd in (started, tell):
        os.close(fd)


def test_a_waiting_job_can_be_cancelled() -> None:
    first = hold()
    second, third = export(1, "second"), export(1, "third")
    assert actions.cancel(second.id) is State.CANCELLED
    go.set()
    wait_for(first, third)
    assert begun == [(1, "hold"), (1, "third")]
    assert second.state is State.CANCELLED


def test_waiting_jobs_are_lost_with_their_process() -> None:
    jobs = [hold(), export(1), export(1)]
    wait_until(lambda: has_looked(jobs[1]))
    lookup.mark_lost()
    assert [job.state for job in jobs] == [State.RUNNING, State.QUEUED, State.QUEUED]
    engine.close_pool(clock.Deadline(0))
    assert {job.state for job in jobs} == {State.LOST}
    go.set()


def test_waiting_jobs_count_for_the_bound_of_the_queue() -> None:
    hold()
    first = export(1)
    wait_until(lambda: has_looked(first) and len(engine._own_pool.get()._running) == 1)
    for _ in range(3):
        export(1)
    with pytest.raises(QueueFull):
        export(1)
    assert export(2).id  # there is a thread for it
    go.set()


def test_a_stop_waits_for_the_jobs_in_a_line() -> None:
    jobs = [hold(), export(1), export(1)]
    go.set()
    engine.close_pool(clock.Deadline(time.monotonic() + 60))
    assert {job.state for job in jobs} == {State.DONE}


def test_a_job_over_the_rate_waits_for_its_slot_with_no_attempt_counted() -> None:
    jobs = [paced() for _ in range(3)]
    wait_for(*jobs)
    found = [lookup.find(job.id) for job in jobs]
    assert [status.attempt for status in found] == [1, 1, 1]
    times = sorted(status.started_at or 0 for status in found)
    assert times[2] - times[0] >= 0.2 - 1e-6


@pytest.mark.parametrize("setting", ["wait", "run"])
def test_without_a_store_a_setting_decides(setting: str, app: Flask) -> None:
    app.config.update(SPOOLKIT_LIMITS_WITHOUT_STORE=setting)
    hold()
    wait_for(export(2))
    pool, path = engine._own_pool.get(), locations.store().path
    wait_until(lambda: len(pool._running) == 1)  # nothing is written any more until that one ends
    locations.store().close()
    os.rename(path, f"{path}.away")
    os.mkdir(path)
    export(1, "second")
    if setting == "run":
        wait_until(lambda: (1, "second") in begun)
    else:
        wait_until(lambda: pool._later)
        assert (1, "second") not in begun
    os.rmdir(path)
    os.rename(f"{path}.away", path)
    go.set()
    wait_until(lambda: (1, "second") in begun)


def test_a_job_that_goes_to_the_spooler_counts_for_the_same_limit(app: Flask) -> None:
    spool_dir = str(app.config["SPOOLKIT_SPOOL"])
    first = or_spool("hold")
    wait_until(lambda: "hold" in begun)
    second = or_spool("second")
    wait_until(lambda: has_looked(second) and len(engine._own_pool.get()._running) == 1)
    others = [or_spool("third") for _ in range(3)]
    last = or_spool("last")
    assert [job.engine for job in (first, second, *others, last)] == [*["thread"] * 5, "spool"]
    Spooler(spool_dir).run_due()
    assert limits.counts(spool_dir, 10) == {or_spool.name: 1}
    go.set()
    wait_for(first, second, *others)

    def has_run() -> bool:
        Spooler(spool_dir).run_due()
        return last.state is State.DONE

    wait_until(has_run)
    assert spoolfile.pending(spool_dir) == []


@pytest.mark.parametrize("name", ["limit", "rate"])
@pytest.mark.parametrize(
    ("options", "says"), [({"track": False}, "track=False"), ({"overflow": "run"}, 'overflow="run"')]
)
def test_a_limit_that_could_not_be_kept_is_refused(name: str, options: dict[str, object], says: str) -> None:
    bound = Limit(1) if name == "limit" else Rate(1, per=1)
    with pytest.raises(ConfigurationError, match=f"{name} cannot be combined with {says}") as refused:
        thread(**{name: bound}, **options)  # type: ignore[call-overload]
    assert refused.value.setting == name


def test_a_key_that_asks_for_what_the_task_lacks_is_refused() -> None:
    def task(a: int) -> None: ...

    with pytest.raises(ConfigurationError, match="the key of limit asks for b"):
        thread(limit=Limit(1, key=lambda b: b), name="test.no_thread_argument")(task)
    with pytest.raises(ConfigurationError, match="give a Rate"):
        thread(rate=Limit(1), name="test.no_thread_rate")(task)  # type: ignore[call-overload]


@ignore_threads
@pytest.mark.usefixtures("nothing_else_runs")
def test_no_process_exceeds_the_limit_and_a_killed_one_leaves_its_room(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoolkit.threads.pool.LOOK_AGAIN", (0.02, 0.1))
    app.config.update(SPOOLKIT_THREAD_QUEUE=1000, SPOOLKIT_THREADS=4)

    def work(process: str) -> None:
        for number in range(JOBS):
            limited(number % KEYS, process)
        engine.close_pool(clock.Deadline(time.monotonic() + 120))

    def block() -> None:
        for key in range(KEYS):
            limited(key, "killed", wait=True)
        time.sleep(600)

    def lines() -> list[list[str]]:
        return [line.split() for line in history.read_text().splitlines()] if history.exists() else []

    blocked = start_child(block)
    wait_until(lambda: len(lines()) == KEYS)
    children = [start_child(partial(work, name)) for name in ("a", "b")]
    wait_until(lambda: any(words[0] == "end" for words in lines()))  # beside the one that blocks
    write("killed", "killed", "-")
    os.kill(blocked, signal.SIGKILL)
    wait_child(blocked)
    assert [wait_child(pid) for pid in children] == [0, 0]
    runs: dict[str, list[str]] = {str(key): [] for key in range(KEYS)}
    for what, process, key in lines():
        if what == "killed":
            runs = {key: [one for one in beside if one != process] for key, beside in runs.items()}
            continue
        (runs[key].append if what == "start" else runs[key].remove)(process)
        assert len(runs[key]) <= NUMBER
    assert sum(words[0] == "end" for words in lines()) == 2 * JOBS
    lookup.mark_lost()
    found = locations.store().read("SELECT state, count(*) AS n FROM jobs GROUP BY state")
    assert {row["state"]: row["n"] for row in found} == {"done": 2 * JOBS, "lost": KEYS}
