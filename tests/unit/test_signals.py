"""Signals: each is sent once, after the record, and no receiver changes what becomes of a job."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask, current_app
from life_process import wait_child
from uwsgi_server import wait_until

from spoolkit import Abort, Batch, Job, JobTimeout, Retry, SpoolKit, State, chain, registry, signals, spool, thread
from spoolkit.admin import lookup
from spoolkit.job import new_id
from spoolkit.spooldir import held
from spoolkit.spooling import leftovers
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations, orphans
from spoolkit.system import clock, log
from spoolkit.testing.inline import InlineEngine
from spoolkit.threads import engine

ALL = [
    signals.job_accepted,
    signals.attempt_started,
    signals.attempt_ended,
    signals.job_done,
    signals.job_dead,
    signals.job_cancelled,
    signals.job_lost,
    signals.job_interrupted,
]

Sent = list[tuple[Any, ...]]

released = threading.Event()


def work_of(how: str) -> object:
    if how == "fails":
        raise ValueError(how)
    if how == "retries":
        raise Retry(0)
    if how == "aborts":
        raise Abort(how)
    if how == "sleeps":
        time.sleep(60)
    if how == "waits":
        released.wait(60)
    if how == "tells":
        return signal.getitimer(signal.ITIMER_REAL)[0] > 0
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return how


one = spool(name="signals.one", retries=1, backoff=0, discard_on=KeyError)(work_of)
limited = spool(name="signals.limited", retries=0, timeout=60)(work_of)
unique = spool(name="signals.unique", unique=True)(work_of)
threaded = thread(name="signals.threaded", retries=0)(work_of)
untracked = thread(name="signals.untracked", retries=0, track=False)(work_of)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("with_signals")
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", TESTING=True)
    SpoolKit(app)
    with app.app_context():
        yield app


@pytest.fixture
def work(app: Flask, tmp_path: Path) -> Callable[[], None]:
    return Spooler(str(tmp_path / "spool")).run_due


@pytest.fixture
def sent(app: Flask) -> Iterator[Sent]:
    """What was sent, with the state of the job at that moment."""
    found: Sent = []

    def receiver_of(name: str) -> Callable[..., None]:
        def receive(task: str, job: Any, **values: Any) -> None:
            assert current_app.name == "with_signals"
            assert job.task == task
            failure = values.pop("failure", None)
            if failure is not None:
                values["failure"] = failure.ending
            found.append((name, values))

        return receive

    receivers = [receiver_of(one.name) for one in ALL]
    for one, receiver in zip(ALL, receivers, strict=True):
        one.connect(receiver)
    yield found
    for one, receiver in zip(ALL, receivers, strict=True):
        one.disconnect(receiver)


ACCEPTED: tuple[str, dict[str, Any]] = ("job-accepted", {})


def started(number: int = 1, most: int = 2) -> tuple[str, dict[str, Any]]:
    return "attempt-started", {"attempt": number, "max_attempts": most}


def ended(ending: str, number: int = 1) -> tuple[str, dict[str, Any]]:
    values = {"attempt": number, "ending": ending}
    return "attempt-ended", {**values, "failure": ending} if ending != "done" else {**values}


DONE = ("job-done", {"result": "works"})


def test_a_job_that_is_done(sent: Sent, work: Callable[[], None]) -> None:
    one("works")
    assert sent == [ACCEPTED]
    work()
    assert sent == [ACCEPTED, started(), ended("done"), DONE]


def test_a_job_that_dies_after_a_retry(sent: Sent, work: Callable[[], None]) -> None:
    one("fails")
    work()
    assert sent[1:] == [started(), ended("failed")]
    work()
    assert sent[3:] == [started(2), ended("failed", 2), ("job-dead", {"failure": "failed"})]


@pytest.mark.parametrize(
    ("how", "ending", "last"),
    [("aborts", "aborted", "job-dead"), ("retries", "retry", None)],
)
def test_how_an_attempt_ends(sent: Sent, work: Callable[[], None], how: str, ending: str, last: str | None) -> None:
    one(how)
    work()
    assert sent[2:] == [ended(ending), *([(last, {"failure": ending})] if last else [])]


def test_a_job_that_expires(sent: Sent, work: Callable[[], None]) -> None:
    one.using(expires=0)("works")
    work()
    assert sent == [ACCEPTED, ("job-cancelled", {"failure": "expired"})]


def test_a_job_that_is_cancelled_while_it_waits(sent: Sent, work: Callable[[], None]) -> None:
    job = one.using(headers={"tenant": "acme"})("works")
    heads: list[Any] = []
    signals.job_cancelled.connect(receive := lambda task, job, **_: heads.append((job.id, job.headers)))
    try:
        job.cancel()
    finally:
        signals.job_cancelled.disconnect(receive)
    work()
    assert sent == [ACCEPTED, ("job-cancelled", {"failure": "cancelled"})]
    assert heads == [(job.id, {"tenant": "acme"})]


def test_an_end_that_was_recorded_before_is_not_sent_again(
    sent: Sent, work: Callable[[], None], tmp_path: Path
) -> None:
    job = one("works")
    path = tmp_path / "spool" / f"uwsgi_spoolfile_on_{job.id}"
    content = path.read_bytes()
    work()
    path.write_bytes(content)  # as if the process had been killed before it removed the file
    path.chmod(0o600)
    work()
    assert not path.exists()
    assert sent == [ACCEPTED, started(), ended("done"), DONE]


def test_a_job_that_cannot_run(
    sent: Sent, work: Callable[[], None], app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config["SPOOLKIT_UNKNOWN_GRACE"] = 0
    one("works")
    monkeypatch.setattr(registry, "this_process", registry.Registry())
    work()
    assert sent == [ACCEPTED, ("job-dead", {"failure": "failed"})]


def test_an_attempt_that_dies_is_announced_by_the_process_that_finds_it(
    sent: Sent, work: Callable[[], None], app: Flask
) -> None:
    job = one("dies")
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    wait_child(pid)
    assert sent == [ACCEPTED]
    work()
    assert sent[1:] == [ended("crashed")]
    assert job.state is State.RETRYING


def test_a_killed_job(sent: Sent, work: Callable[[], None]) -> None:
    job = one("sleeps")
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    wait_until(lambda: job.state is State.RUNNING)
    job.cancel(force=True)
    wait_child(pid)
    assert sent[1:] == [ended("cancelled"), ("job-cancelled", {"failure": "cancelled"})]


def test_an_interrupted_job(sent: Sent, work: Callable[[], None]) -> None:
    job = one("sleeps")
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    wait_until(lambda: job.state is State.RUNNING)
    interrupted = orphans.interrupt(
        locations.store(),
        [pid],
        kill=lambda pid: os.kill(pid, signal.SIGKILL),
        read_leftovers=lambda id, queue: (None, ""),
    )
    wait_child(pid)
    orphans.announce(interrupted)
    assert sent[1:] == [ended("interrupted"), ("job-interrupted", {"attempt": 1})]


def test_all_jobs_of_a_map_but_no_duplicates(sent: Sent) -> None:
    one.map([("a",), ("b",)])
    unique("a")
    unique("a")
    unique.map([("a",), ("b",)])
    assert sent == [ACCEPTED] * 4


def test_a_job_that_waits_for_a_commit_is_accepted_at_the_commit(sent: Sent, app: Flask) -> None:
    waiting: list[Callable[[], None]] = []
    app.extensions["spoolkit"].on_commit = waiting.append
    one.using(after_commit=True)("works")
    assert sent == []
    waiting[0]()
    assert sent == [ACCEPTED]


def test_what_a_commit_could_not_accept_is_announced_by_the_sweep_that_does(
    sent: Sent, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    waiting: list[Callable[[], None]] = []
    app.extensions["spoolkit"].on_commit = waiting.append
    one.using(after_commit=True)("works")
    first, _ = one.map([("a",), ("b",)], after_commit=True)
    unique.using(after_commit=True)("a")
    unique.using(after_commit=True)("a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held, "accept", Mock(side_effect=OSError(28, "No space left")))
        for publish in waiting:
            publish()
    assert sent == []
    for _ in range(2):
        leftovers.sweep(app.config["SPOOLKIT_SPOOL"])
        assert sent == [ACCEPTED] * 4
    assert f"job {first.id} of {one.name} and 1 more is accepted by a sweep" in caplog.text


def test_jobs_that_follow_from_others_are_announced_when_they_are_accepted(
    sent: Sent, work: Callable[[], None]
) -> None:
    chain(one.call("works"), one.call("works"))
    with Batch("both", then=one.call("works")) as batch:
        batch.add(one, "works")
        batch.add(one, "works")
    assert sent == [ACCEPTED] * 3
    for _ in range(3):
        work()
    assert sent.count(ACCEPTED) == 5
    assert sent.count(DONE) == 5


def test_a_refused_call_sends_nothing(sent: Sent) -> None:
    with pytest.raises(TypeError):
        one(object())
    assert sent == []


def test_jobs_of_threads_and_inline(sent: Sent, app: Flask) -> None:
    for task in (threaded, untracked):
        sent.clear()
        task("works")
        wait_until(lambda: len(sent) == 4)
        assert sorted(sent, key=str) == sorted([ACCEPTED, started(1, 1), ended("done"), DONE], key=str)
    sent.clear()
    InlineEngine().submit(Job(new_id(), one.name, ("works",)), one.declared)
    assert sent == [ACCEPTED, started(), ended("done"), DONE]


@pytest.mark.parametrize("tracked", [True, False])
def test_a_job_of_a_thread_that_is_lost_and_then_done_anyway(sent: Sent, app: Flask, tracked: bool) -> None:
    released.clear()
    (threaded if tracked else untracked)("waits")
    wait_until(lambda: started(1, 1) in sent)
    engine.close_pool(clock.Deadline(0))
    lost = [*sent]
    released.set()
    wait_until(lambda: not any(re.fullmatch(r"spoolkit-\d+", one.name) for one in threading.enumerate()))
    assert lost[-1] == ("job-lost", {"failure": "failed"})
    assert len(lost) == 3
    if tracked:
        assert sent == lost  # what is recorded is that it is lost


def test_a_lost_job_is_announced_once_by_the_process_that_finds_it(sent: Sent, app: Flask) -> None:
    pid = os.fork()
    if not pid:
        threaded("sleeps")
        lookup.jobs()  # writes the row of a job that waits
        os._exit(0)
    wait_child(pid)
    lookup.jobs()
    lookup.jobs()
    assert sent == [("job-lost", {"failure": "failed"})]


def test_it_is_sent_after_the_record(app: Flask, work: Callable[[], None]) -> None:
    seen: list[Any] = []

    def receive(task: str, job: Any, **_: Any) -> None:
        found = Job.get(job.id)
        seen.append((found.state, found.result, os.listdir(app.config["SPOOLKIT_SPOOL"]).count(job.id)))

    with signals.job_done.connected_to(receive):
        one("works")
        work()
    assert seen == [(State.DONE, "works", 0)]


def test_a_receiver_may_hear_of_one_task_only(app: Flask, work: Callable[[], None]) -> None:
    seen: list[str] = []

    def receive(task: str, **_: Any) -> None:
        seen.append(task)

    with signals.job_done.connected_to(receive, sender=limited.name):
        one("works")
        limited("works")
        work()
    assert seen == [limited.name]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, JobTimeout, GeneratorExit])
def test_no_error_of_a_receiver_changes_the_outcome(
    sent: Sent, work: Callable[[], None], error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    log._complaints.discard()

    def fail(task: str, **_: Any) -> None:
        raise error("of the receiver")

    inside = [signals.attempt_started, signals.attempt_ended, signals.job_done]
    for one_signal in inside:
        one_signal.connect(fail)
    try:
        job = one("works")
        work()
    finally:
        for one_signal in inside:
            one_signal.disconnect(fail)
    assert job.state is State.DONE
    assert sent == [ACCEPTED, started(), ended("done"), DONE]
    for one_signal in inside:
        assert f"a receiver of the signal {one_signal.name} failed" in caplog.text


def test_an_error_after_the_call_is_accepted_is_not_that_of_the_call(app: Flask, work: Callable[[], None]) -> None:
    def fail(task: str, **_: Any) -> None:
        raise ValueError

    with signals.job_accepted.connected_to(fail):
        job = one("works")
    work()
    assert job.state is State.DONE


def test_the_time_limit_of_a_task_does_not_strike_in_a_receiver(app: Flask, work: Callable[[], None]) -> None:
    running: list[bool] = []

    def receive(task: str, **_: Any) -> None:
        running.append(signal.getitimer(signal.ITIMER_REAL)[0] > 0)

    with signals.attempt_started.connected_to(receive), signals.attempt_ended.connected_to(receive):
        job = limited("tells")
        work()
    assert (job.result, running) == (True, [False, False])


def test_the_time_limit_of_a_task_that_calls_goes_through_a_receiver(app: Flask) -> None:
    def strike(task: str, **_: Any) -> None:
        raise JobTimeout("of the task that makes the call")

    with signals.job_accepted.connected_to(strike), pytest.raises(JobTimeout):
        one("works")


def test_an_async_receiver_is_an_error(app: Flask, work: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    log._complaints.discard()

    async def receive(task: str, **_: Any) -> None: ...

    with signals.job_done.connected_to(receive):
        one("works")
        work()
    assert "must not be async" in caplog.text


def test_muted(app: Flask, sent: Sent) -> None:
    with signals.job_accepted.muted():
        one("works")
    assert sent == []
