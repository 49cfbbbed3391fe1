"""Jobs in workers of Celery, one step at a time, with a broker in memory: a kill between any two steps; refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency import solo
from celery_site import CelerySite, app_in, message_of
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import (
    Abort,
    ArgumentError,
    ConfigurationError,
    Job,
    Limit,
    Rate,
    State,
    application,
    current_job,
    periodic,
    registry,
    spool,
)
from spoolkit.admin import actions, pausing
from spoolkit.attempt import remote
from spoolkit.attempt.remote import Message, PublishError, Report
from spoolkit.attempt.runner import AttemptResult
from spoolkit.celery import channel, configuration, connection, transport, worker
from spoolkit.celery.consumer import Consumer
from spoolkit.coordination import capabilities
from spoolkit.encoding import packet
from spoolkit.errors import JobStateError
from spoolkit.job import Bill, Cancelled, Dead, Done, Failure, JobSpec, Progress, RetryAt
from spoolkit.spooldir import sent, spoolfile
from spoolkit.spooling import execute, returns, sending
from spoolkit.store import locations
from spoolkit.store.transitions import Result
from spoolkit.system import clock
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import bridge

DOCS = Path(__file__).parents[2] / "docs"

ran: list[int] = []


def meanwhile() -> None:
    """What others do while the task runs."""


@spool(retries=2, backoff=0)
def work(how: str = "") -> dict[str, Any]:
    job = current_job()
    ran.append(job.attempt)
    job.progress(1, 2, "half")
    print("worked")
    if how == "fails":
        raise ValueError("trouble")
    if how == "gives up":
        raise Abort("no")
    if how in ("waits", "is asked to stop"):
        meanwhile()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (how == "is asked to stop" and job.cancelled):
            if how == "waits":
                job.progress(1, 2)
            time.sleep(0.01)
    return {"how": how, "headers": dict(job.headers)}


@spool(unique=("key",), on_duplicate="replace")
def replaced_work(key: str, value: str) -> str:
    return value


@spool(retries=1, backoff=4)
def retried_soon() -> None:
    raise ValueError("trouble")


@spool(retries=1, backoff=1000)
def slow_to_retry() -> None:
    if current_job().attempt == 1:
        raise ValueError("trouble")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    ran.clear()
    with app_in(tmp_path, "site_of_celery") as app:
        yield app


@pytest.fixture
def spool_dir(app: Flask, tmp_path: Path) -> str:
    return str(tmp_path / "spool")


@pytest.fixture
def site(app: Flask, spool_dir: str) -> Iterator[CelerySite]:
    site = CelerySite(app, spool_dir)
    yield site
    site.returns.close()


def anew(site: CelerySite, spool_dir: str) -> None:
    """Let another process hear the reports."""
    site.returns.close()
    site.returns = returns.Returns(spool_dir, wait=0.01)


def killed(*args: object, **options: object) -> Any:
    """What a process does in the place of its next step when it is killed."""
    raise OSError("killed")


def finished(job: Job, site: CelerySite) -> Job:
    for _ in range(10):
        if job.state in (State.DONE, State.DEAD, State.CANCELLED):
            return job
        site.run_due()
    raise AssertionError(job.state)


def test_a_job_waits_as_sent_until_its_end_is_known(site: CelerySite, spool_dir: str) -> None:
    job = work.using(headers={"request_id": "7"}, tags=["a"])()
    assert (job.engine, job.state) == ("celery", State.QUEUED)
    site.publish()
    assert (job.state, len(sent.paths(spool_dir)), ran) == (State.QUEUED, 1, [])
    site.work()
    assert ran == [1]
    site.hear()
    assert job.result == {"how": "", "headers": {"request_id": "7"}}
    (attempt,) = job.attempts
    assert (attempt.outcome, attempt.log.strip(), job.status.progress) == ("done", "worked", Progress(1, 2, "half"))
    assert sent.paths(spool_dir) == []


def test_a_sent_job_is_found_without_reading_the_names_of_all_others(
    spool_dir: str, site: CelerySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, urgent = work(), work.using(priority=3)()
    site.publish()
    assert sent.find(spool_dir, urgent.id) == os.path.join(spool_dir, "sent", "3", f"uwsgi_spoolfile_on_{urgent.id}")
    monkeypatch.setattr(spoolfile, "priority_folders", None)
    assert sent.find(spool_dir, plain.id) == os.path.join(spool_dir, "sent", f"uwsgi_spoolfile_on_{plain.id}")


def test_a_message_has_the_name_of_the_task_the_id_of_the_job_and_one_argument(site: CelerySite) -> None:
    job = work("x")
    site.publish()
    (message,) = site.take()
    (arguments, named, _) = message.decode()
    assert (message.headers["task"], message.headers["id"], named) == (work.name, job.id, {})
    assert (len(arguments), arguments[0]["call"]) == (1, '[["x"],{}]')
    assert message.content_type == "application/json"
    assert "x" not in message.headers["argsrepr"]


@pytest.mark.parametrize("how", ["fails", "gives up"])
def test_a_job_without_attempts_left_is_dead_and_can_be_retried(site: CelerySite, how: str) -> None:
    job = finished(work(how), site)
    assert (job.state, job.attempt) == (State.DEAD, 3 if how == "fails" else 1)
    before = job.attempt
    actions.retry(job.id)
    finished(job, site)
    assert (job.state, job.attempt) == (State.DEAD, 2 * before)


def test_a_publication_that_fails_is_no_attempt(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str
) -> None:
    def refuse(self: object, message: Message) -> None:
        raise PublishError("away")

    monkeypatch.setattr(sending, "_away", PerProcess(dict))
    job = work()
    with monkeypatch.context() as away:
        away.setattr(transport.CeleryTransport, "publish", refuse)
        site.publish()
    assert (job.state, job.attempt, sent.paths(spool_dir)) == (State.QUEUED, 0, [])
    sending._away.get().clear()  # this process does not remember it
    actions.run_now(job.id)
    assert finished(job, site).attempt == 1


# A kill between two steps


def publish_and_be_killed(site: CelerySite, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a spooler does that is killed between the message and the move of its file."""
    with monkeypatch.context() as kill:
        kill.setattr(sent, "place", killed)
        site.publish()


def test_a_kill_between_the_message_and_the_move_of_its_file_publishes_the_attempt_again(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str
) -> None:
    job = work()
    publish_and_be_killed(site, monkeypatch)
    site.publish()
    first, second = site.take()
    assert message_of(first).attempt == message_of(second).attempt == 1
    site.run(first)
    site.hear()
    assert (job.state, job.attempt) == (State.DONE, 1)
    site.run(second)
    site.hear()
    assert (job.state, len(job.attempts), sent.paths(spool_dir)) == (State.DONE, 1, [])


def test_reports_that_come_before_the_file_has_moved_are_recorded(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str
) -> None:
    job = work()
    publish_and_be_killed(site, monkeypatch)
    site.work()
    site.hear()
    assert (job.state, spoolfile.pending(spool_dir)) == (State.DONE, [])


def test_of_any_number_of_copies_one_is_started(site: CelerySite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SHORT_RETRY", -1.0)
    job = work("fails")
    copies: list[Any] = []
    for attempt in (1, 2, 3):
        publish_and_be_killed(site, monkeypatch)
        site.publish()
        copies += site.take()
        assert len(copies) == 2 * attempt
        for message in copies:
            site.run(message)
        site.hear()
        assert (job.attempt, ran) == (attempt, list(range(1, attempt + 1)))
    assert job.state is State.DEAD


def test_a_copy_is_refused_while_the_attempt_runs(site: CelerySite, monkeypatch: pytest.MonkeyPatch) -> None:
    job = work()
    message = started(site, monkeypatch)
    site.run(message)
    assert (job.state, job.attempt, ran) == (State.RUNNING, 1, [])


# The question and its answer


def test_a_job_whose_origin_does_not_answer_is_published_again_and_costs_no_attempt(site: CelerySite) -> None:
    job = work()
    for _ in range(5):
        site.publish()
        (message,) = site.take()
        site.run(message, patience=0.0)
        assert site.take() == []
        site.hear()
        assert (ran, job.attempt) == ([], 0)
    finished(job, site)
    assert (job.state, job.attempt, ran) == (State.DONE, 1, [1])
    assert [event.kind for event in locations.store().history(job.id)[1]].count("returned") == 5


def test_a_lost_answer_costs_no_attempt(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str, app: Flask
) -> None:
    job = work("fails")
    for attempt in (1, 2, 3):
        with monkeypatch.context() as lost:
            lost.setattr(transport.CeleryTransport, "answer", lambda *args: None)
            site.publish()
            (message,) = site.take()
            site.run(message, patience=0.05)
        site.hear()
        assert (job.attempt, len(ran), sent.paths(spool_dir)) == (attempt - 1, attempt - 1, [])
        site.run_due()
    assert (job.state, ran) == (State.DEAD, [1, 2, 3])


def test_a_question_that_is_asked_twice_has_the_same_answer(site: CelerySite) -> None:
    job = work()
    site.publish()
    (message,) = site.take()
    one = message_of(message)
    line = connection.WorkerConnection(site.celery)
    asked, other = (
        Report("asks", job.id, 1, 1, run, arguments=remote.digest(one.arguments))
        for run in (line.new_run(), line.new_run())
    )
    said = []
    for report in (asked, other, asked):
        line.report(one.origin, report)
        site.hear()
        line.listen(1)
        said.append(line.take_answer(report.run))
    assert said == ["start", "no", "start"]
    line.close()


def test_a_question_is_not_heard_after_its_worker_has_returned_the_message(
    site: CelerySite, spool_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = work()
    site.publish()
    (message,) = site.take()
    one = message_of(message)
    line = connection.WorkerConnection(site.celery)
    run = line.new_run()
    monkeypatch.setattr(returns, "LOCKED_TIME", 0.0)
    with monkeypatch.context() as spooler:
        spooler.setattr(spoolfile, "claim", lambda path: contextlib.nullcontext())
        line.report(one.origin, Report("asks", job.id, 1, 1, run, arguments=remote.digest(one.arguments)))
        site.hear()
    line.report(one.origin, Report("returned", job.id, 1, 1, run))
    line.close()
    for _ in range(2):
        site.hear()
    assert (job.state, job.attempt, sent.paths(spool_dir)) == (State.QUEUED, 0, [])


# A retry after a short time


def test_a_short_retry_is_delivered_by_celery(site: CelerySite, spool_dir: str) -> None:
    job = work("fails")
    site.publish()
    site.work()
    site.hear()
    assert (job.state, job.attempt, ran, sent.paths(spool_dir)) == (State.RETRYING, 1, [1], [])
    assert job.status.run_at == pytest.approx(clock.now(), abs=60)
    site.publish()  # nothing: the file is put off
    (message,) = site.take()
    assert (message_of(message).attempt, message.headers["id"], message.headers["retries"]) == (2, job.id, 1)
    assert "fails" not in message.headers["argsrepr"]
    site.run(message)
    site.hear()
    assert (job.attempt, ran) == (2, [1, 2])
    site.work()
    site.hear()
    assert (job.state, ran) == (State.DEAD, [1, 2, 3])


def test_a_short_retry_whose_message_is_lost_is_published_by_the_origin(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str
) -> None:
    job = work("fails")
    site.publish()
    site.work()
    site.hear()
    (lost,) = site.take()
    later = clock.now() + 100
    monkeypatch.setattr(clock, "now", lambda: later)
    site.publish()
    (message,) = site.take()
    for one in (lost, message, lost):
        site.run(one)
    site.hear()
    assert (job.attempt, ran) == (2, [1, 2])


def test_a_short_retry_is_not_early_where_the_clock_of_the_worker_is_fast(
    site: CelerySite, spool_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = retried_soon()
    now = clock.now() + 1
    monkeypatch.setattr(clock, "now", lambda: now)
    site.publish()
    site.work()
    site.hear()
    (message,) = site.take()
    site.run(message)
    assert (job.state, job.attempt, len(site.take())) == (State.RETRYING, 1, 0)
    (path,) = spoolfile.pending(spool_dir)
    assert os.path.getmtime(path) == pytest.approx(job.status.run_at, abs=0.01)


def test_a_job_that_waits_for_a_short_retry_can_be_cancelled_and_run_now(site: CelerySite, spool_dir: str) -> None:
    cancelled, hurried = retried_soon(), retried_soon()
    site.publish()
    site.work()
    site.hear()
    cancelled.cancel()
    actions.run_now(hurried.id)
    site.publish()
    site.work()
    site.hear()
    assert (cancelled.state, cancelled.attempt) == (State.CANCELLED, 1)
    assert (hurried.state, hurried.attempt) == (State.DEAD, 2)


# Cancelling


def test_a_job_with_the_broker_is_cancelled_at_once_and_not_started(site: CelerySite, spool_dir: str) -> None:
    job = work()
    site.publish()
    job.cancel()
    assert (job.state, sent.paths(spool_dir)) == (State.CANCELLED, [])
    site.work()
    site.hear()
    assert (job.state, ran) == (State.CANCELLED, [])


@pytest.mark.parametrize("returns_late", [False, True], ids=["progress", "cancelled"])
def test_a_running_job_is_told_to_stop(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str, returns_late: bool
) -> None:
    monkeypatch.setattr(worker, "BEAT", 0.0)
    job = work("is asked to stop" if returns_late else "waits")
    monkeypatch.setattr(sys.modules[__name__], "meanwhile", lambda: actions.cancel(job.id))
    finished(job, site)
    assert (job.state, job.attempt, sent.paths(spool_dir)) == (State.CANCELLED, 1, [])
    assert "cancel asked" in [event.kind for event in locations.store().history(job.id)[1]]


def test_a_job_that_fails_after_it_was_cancelled_is_not_tried_again(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str
) -> None:
    job = work()
    started(site, monkeypatch)
    assert actions.cancel(job.id) is State.RUNNING
    be_silent(site, monkeypatch)
    site.publish()
    assert (job.state, spoolfile.pending(spool_dir), sent.paths(spool_dir)) == (State.CANCELLED, [], [])


def test_a_running_job_is_not_killed_from_here(site: CelerySite, monkeypatch: pytest.MonkeyPatch) -> None:
    job = work()
    started(site, monkeypatch)
    with pytest.raises(JobStateError, match="cannot be killed"):
        actions.cancel(job.id, force=True)


def test_an_attempt_that_counts_as_lost_is_told_to_stop(site: CelerySite, monkeypatch: pytest.MonkeyPatch) -> None:
    job = work()
    one = message_of(started(site, monkeypatch))
    be_silent(site, monkeypatch)
    line = connection.WorkerConnection(site.celery)
    run = line.new_run()
    line.report(one.origin, Report("running", job.id, 1, 1, run))
    site.hear()
    line.listen(1)
    assert line.take_answer(run) == "stop"
    line.close()


def test_a_message_with_other_arguments_than_the_job_has_by_now_is_not_started(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str
) -> None:
    with monkeypatch.context() as kill:
        kill.setattr(sent, "place", killed)
        job = replaced_work("k", "old")
        site.publish()
        assert replaced_work("k", "new").id == job.id
    site.work()
    assert finished(job, site).result == "new"


def test_a_retry_that_somebody_has_run_now_is_not_early(site: CelerySite) -> None:
    job = slow_to_retry()
    site.run_due()
    assert job.state is State.RETRYING
    actions.run_now(job.id)
    assert finished(job, site).attempt == 2


def test_an_origin_that_is_silent_is_waited_for_less(site: CelerySite, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    line = connection.WorkerConnection(site.celery)
    asked = list[Report]()

    def listen(seconds: float) -> None:
        nonlocal now
        now += seconds

    def waited(origin: str) -> float:
        before = now
        assert line.ask(origin, Report("asks", "0" * 32, 1, 1, line.new_run())) is None
        return now - before

    monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(line, "listen", listen)
    monkeypatch.setattr(line, "report", lambda origin, report: asked.append(report))
    assert waited("away") == pytest.approx(connection.PATIENCE)
    assert len(asked) == connection.PATIENCE / connection.AGAIN
    assert waited("away") == pytest.approx(connection.LITTLE_PATIENCE)
    assert waited("also away") == pytest.approx(connection.PATIENCE)
    late: Any = SimpleNamespace(decode=lambda: {"run": asked[-1].run, "says": "start"})
    line._on_message(late)
    assert waited("away") == pytest.approx(connection.LITTLE_PATIENCE)
    assert waited("also away") == pytest.approx(connection.PATIENCE), "it is slow, as a late answer has shown"
    now += connection.SILENT
    assert waited("away") == pytest.approx(connection.PATIENCE)


def test_a_job_of_a_task_that_was_paused_meanwhile_is_not_started(site: CelerySite, spool_dir: str) -> None:
    job = work()
    site.publish()
    pausing.pause(work.name)
    site.work()
    site.publish()
    assert (ran, job.state, sent.paths(spool_dir)) == ([], State.QUEUED, [])
    pausing.resume(work.name)
    assert finished(job, site).attempt == 1


def test_a_job_that_expires_while_the_broker_has_it_is_not_started(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = work.using(expires=100)()
    site.publish()
    later = clock.now() + 200
    monkeypatch.setattr(clock, "now", lambda: later)
    site.work()
    site.hear()
    assert (job.state, ran) == (State.CANCELLED, [])


def started(site: CelerySite, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The message of an attempt whose worker is killed after it has reported the start."""

    class KilledError(BaseException):
        pass

    def kill(*args: object, **options: object) -> None:
        raise KilledError

    site.publish()
    (message,) = site.take()
    with monkeypatch.context() as killed:
        killed.setattr(worker, "_attempt", kill)
        with pytest.raises(KilledError):
            site.run(message)
    site.hear()
    return message


def test_an_attempt_whose_worker_is_killed_counts_and_is_not_run_from_its_message(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, app: Flask
) -> None:
    job = work()
    for attempt in (1, 2, 3):
        message = started(site, monkeypatch)
        assert (job.state, job.attempt) == (State.RUNNING, attempt)
        site.run(message)
        site.hear()
        assert (job.state, job.attempt) == (State.RUNNING, attempt)
        be_silent(site, monkeypatch)
    assert (job.state, ran) == (State.DEAD, [])
    assert [one.outcome for one in job.attempts] == ["crashed"] * 3


def be_silent(site: CelerySite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time pass after which an attempt is lost, with a connection to the broker all the time."""
    with monkeypatch.context() as patch:
        patch.setattr(returns, "ECHO", 0.0)
        site.returns._next_echo = 0.0
        site.hear()
        for heard in site.returns._heard.values():
            heard.at -= 100
        for _ in range(3):
            site.hear()


def test_silence_does_not_count_while_reports_do_not_arrive(site: CelerySite, monkeypatch: pytest.MonkeyPatch) -> None:
    job = work()
    started(site, monkeypatch)
    for heard in site.returns._heard.values():
        heard.at -= 100
    with monkeypatch.context() as away:
        away.setattr(transport.CeleryTransport, "receive", lambda *args: False)
        assert site.returns.step() > 0
    be_patient = [site.returns.step() for _ in range(3)]
    assert (be_patient, job.state) == ([0.0] * 3, State.RUNNING)


def test_another_process_that_hears_the_reports_takes_over_what_runs(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str
) -> None:
    job = work()
    started(site, monkeypatch)
    anew(site, spool_dir)
    site.hear()
    assert job.state is State.RUNNING
    be_silent(site, monkeypatch)
    assert finished(job, site).attempt == 2


def test_a_worker_that_cannot_ask_gives_the_job_back_when_the_broker_is_there(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, left = channel.publish_report, [2]

    def refuse(*args: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionError("away")
        publish(*args)

    job = work()
    site.publish()
    (message,) = site.take()
    monkeypatch.setattr(worker, "PAUSE", 0.0)
    with monkeypatch.context() as away:
        away.setattr(channel, "publish_report", refuse)
        site.run(message, patience=0.0)
    site.hear()
    assert (ran, job.attempt) == ([], 0)
    assert finished(job, site).attempt == 1


@pytest.mark.parametrize("how", ["", "fails", "gives up"])
def test_a_kill_between_the_record_of_an_end_and_the_file_is_made_up_for(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str, how: str
) -> None:
    job = work(how)
    site.publish()
    site.work()
    with monkeypatch.context() as kill:
        kill.setattr(execute, "settle_file", killed)
        site.returns.step()
    anew(site, spool_dir)
    site.hear()
    finished(job, site)
    assert job.state is (State.DONE if not how else State.DEAD)
    assert ran == ([1, 2, 3] if how == "fails" else [1])
    assert spoolfile.pending(spool_dir) == []


def test_a_report_that_is_heard_twice_changes_nothing(site: CelerySite) -> None:
    job = work()
    site.publish()
    (message,) = site.take()
    site.run(message)
    site.hear()
    site.run(message)
    site.hear()
    assert (job.state, job.attempt, len(job.attempts)) == (State.DONE, 1, 1)


def test_a_job_that_the_workers_code_does_not_know_waits_for_another_version(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = work()
    site.publish()
    (message,) = site.take(acknowledges=False)
    consumer = site.consumer()
    consumer.on_unknown_task(None, message, KeyError(work.name))
    assert message.acknowledged
    site.hear()
    assert (job.state, job.attempt) == (State.QUEUED, 0)
    actions.run_now(job.id)
    assert finished(job, site).attempt == 1


def compare(site: CelerySite) -> None:
    """Let the process that hears the reports look at the mark in the broker, and leave a new one."""
    site.returns._hear_anew()
    site.returns._compare_at = 0.0
    for _ in range(3):
        site.hear()


def forget(site: CelerySite) -> None:
    """Let the broker forget everything."""
    with site.celery.connection_for_write() as connection:
        for queue in list(connection.default_channel.queues):
            connection.default_channel._purge(queue)


def test_what_the_broker_has_forgotten_is_published_again(site: CelerySite) -> None:
    job = work()
    site.publish()
    compare(site)
    assert len(site.take()) == 1  # it is not in the broker any more, and no worker has started it
    forget(site)
    compare(site)
    assert finished(job, site).attempt == 1
    assert ran == [1]


def test_what_the_broker_remembers_is_not_published_again(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, spool_dir: str
) -> None:
    monkeypatch.setattr(returns, "TICK", 0.0)
    compare(site)
    work()
    site.publish()
    site.hear()
    anew(site, spool_dir)
    compare(site)
    site.publish()
    assert len(site.take()) == 1


def test_a_job_of_which_nothing_was_heard_for_long_is_published_again(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(site)
    job = work()
    site.publish()
    (lost,) = site.take()
    for late, published in ((500, 0), (700, 1)):
        now = clock.now() + late
        with monkeypatch.context() as later:
            later.setattr(clock, "now", lambda now=now: now)
            later.setattr(site.returns, "_next_look", 0.0)
            site.hear()
        site.publish()
        assert len(site.take()) == published, late
    site.run(lost)
    site.hear()
    assert (job.state, job.attempt) == (State.DONE, 1)


@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_each_wait_is_at_least_as_long_as_the_job_has_waited_before(before: float, since: float) -> None:
    with tempfile.NamedTemporaryFile() as file:
        moved = os.stat(file.name).st_ctime
        os.utime(file.name, (moved, moved - before))
        moved = os.stat(file.name).st_ctime
        assert sent.is_overdue(file.name, moved + since, 600.0) == (since > max(600.0, before)) or (
            abs(since - max(600.0, before)) < 1
        )


def test_a_worker_with_another_pool_than_processes_is_refused(site: CelerySite) -> None:
    with pytest.raises(ConfigurationError, match="'solo'"):
        Consumer(lambda request: None, pool=solo.TaskPool(), app=site.celery)


def test_a_damaged_file_holds_up_no_other_job(site: CelerySite, spool_dir: str) -> None:
    job, damaged = work(), work()
    site.publish()
    (path,) = (path for path in sent.paths(spool_dir) if damaged.id in path)
    os.truncate(path, 0)
    anew(site, spool_dir)
    assert finished(job, site).state is State.DONE
    assert (damaged.state, sent.paths(spool_dir)) == (State.DEAD, [])


def test_a_lost_attempt_of_a_newer_version_holds_up_no_report(
    site: CelerySite, spool_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, other = work(), work()
    site.publish()
    messages = {message.headers["id"]: message for message in site.take()}
    monkeypatch.setattr(site, "take", lambda: [messages[newer.id]])
    started(site, monkeypatch)
    (path,) = (path for path in sent.paths(spool_dir) if newer.id in path)
    content = packet.load(Path(path).read_bytes())
    Path(path).write_bytes(packet.dump(content._replace(fields={**content.fields, packet.MUST: b"unknown"})))
    be_silent(site, monkeypatch)
    assert newer.state is State.RUNNING
    site.run(messages[other.id])
    site.hear()
    assert other.state is State.DONE


def test_a_report_that_cannot_be_recorded_holds_up_no_other_one(
    site: CelerySite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = work(), work()
    site.publish()
    record = returns.record_and_settle

    def fail_for_first(job: JobSpec, *rest: Any, **options: Any) -> Any:
        if job.id == first.id:
            raise ValueError("of a fault in the code")
        return record(job, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(returns, "record_and_settle", fail_for_first)
        assert finished(other, site).state is State.DONE
    assert "of a fault in the code" in caplog.text
    be_silent(site, monkeypatch)
    assert finished(first, site).state is State.DONE
    assert first.attempt == 2


# What is refused


def test_a_job_that_celery_has_is_not_run_now(site: CelerySite) -> None:
    job = work()
    site.publish()
    with pytest.raises(JobStateError, match="Celery has it"):
        actions.run_now(job.id)
    assert finished(job, site).attempt == 1


@pytest.mark.parametrize(
    "options",
    [{"limit": Limit(1)}, {"rate": Rate(1, per=1)}, {"memory": 1 << 30}],
    ids=lambda options: next(iter(options)),
)
def test_an_option_that_works_on_one_machine_only_is_refused_by_name_in_the_call(
    app: Flask, spool_dir: str, options: dict[str, Any]
) -> None:
    def function() -> None: ...

    (option,) = options
    task = spool(name=f"refused {option}", **options)(function)
    with pytest.raises(ArgumentError, match=re.escape(f"{option}=")) as refused:
        task()
    assert refused.value.argument == option
    with pytest.raises(ArgumentError):
        task.map([()])
    assert spoolfile.pending(spool_dir) == []
    at_home = spool(name=f"at home {option}", engine="spool", **options)(function)
    assert at_home().engine == "spool"


def test_a_periodic_task_for_celery_that_has_what_is_refused_is_refused_at_its_declaration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Other applications of this process need no broker for it.
    monkeypatch.setattr(registry.this_process, "tasks", dict(registry.this_process.tasks))

    def function() -> None: ...

    with pytest.raises(ConfigurationError, match="limit="):
        periodic(every=60)(spool(engine="celery", name="periodic for celery", limit=Limit(1))(function))


def test_the_page_names_each_option_that_is_refused() -> None:
    page = (DOCS / "celery.md").read_text()
    for refusal in capabilities.REFUSED:
        assert re.search(rf"^\| `{refusal.option}=` \| refused", page, re.MULTILINE), refusal.option


@pytest.mark.parametrize(
    ("given_settings", "wrong"),
    [
        (None, "broker_url"),
        ({}, "broker_url"),
        ({"broker_url": "memory://", "accept_content": ["json", "pickle"]}, "accept_content"),
        ({"broker_url": "memory://", "task_serializer": "pickle"}, "task_serializer"),
        ({"broker_url": "memory://", "task_acks_late": False}, "task_acks_late"),
    ],
)
def test_settings_of_celery_that_contradict_the_promises_are_refused(given_settings: object, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong):
        configuration.settings(given_settings)


def test_rabbitmq_confirms_and_redis_does_not_hang() -> None:
    amqp, redis = (configuration.settings({"broker_url": f"{name}://x"}) for name in ("amqp", "redis"))
    assert amqp["broker_transport_options"] == {"confirm_publish": True}
    assert redis["broker_transport_options"].keys() == {
        "socket_connect_timeout",
        "socket_timeout",
        "visibility_timeout",
    }
    several = configuration.settings({"broker_url": ["amqp://x", "amqp://y"]})
    assert (several["broker_url"], several["broker_transport_options"]) == (
        "amqp://x;amqp://y",
        {"confirm_publish": True},
    )
    assert "visibility_timeout" in configuration.settings({"broker_url": "sentinel://x"})["broker_transport_options"]
    own = {"broker_url": "redis://x", "broker_transport_options": {"visibility_timeout": 7}}
    assert configuration.settings(own)["broker_transport_options"]["visibility_timeout"] == 7


def test_reports_are_heard_also_for_a_task_that_is_declared_after_its_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry.this_process, "tasks", {})
    starts: list[Callable[[], None]] = []
    monkeypatch.setattr(bridge, "is_uwsgi", lambda: True)
    monkeypatch.setattr(bridge, "has_threads", lambda: True)
    monkeypatch.setattr(bridge, "at_start", starts.append)
    spool(name="declared late", engine="spool")(meanwhile)
    assert starts == []
    spool(name="declared late for workers", engine="celery")(meanwhile)
    assert len(starts) == 1


def test_a_uwsgi_without_threads_says_that_no_worker_gets_an_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge, "is_uwsgi", lambda: True)
    monkeypatch.setattr(bridge, "has_threads", lambda: False)
    monkeypatch.setattr(bridge, "directories", lambda: ["/spool"])
    returns.start_in_http_processes()
    assert "enable-threads = true" in caplog.text


def test_the_engine_is_looked_up_at_the_call(app: Flask, site: CelerySite) -> None:
    app.config["SPOOLKIT_ENGINE"] = "spool"
    before = work()
    app.config["SPOOLKIT_ENGINE"] = "celery"
    after = work()
    assert (before.engine, after.engine) == ("spool", "celery")
    site.publish()
    assert (before.state, after.state) == (State.DONE, State.QUEUED)
    assert finished(after, site).state is State.DONE


def test_a_site_that_has_moved_back_hears_of_what_it_had_sent(
    app: Flask, site: CelerySite, spool_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.this_process, "tasks", {})
    app.config["SPOOLKIT_ENGINE"] = "spool"
    assert not returns.are_expected(app, application.settings())
    Path(spool_dir, sent.FOLDER).mkdir(mode=0o700)
    assert returns.are_expected(app, application.settings())
    del app.config["CELERY"]
    assert not returns.are_expected(app, application.settings())


# Documents

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, 10**6)
failures = st.builds(Failure, texts, st.none() | texts, st.none() | texts, st.sampled_from(["failed", "crashed"]))
outcomes = st.one_of(st.just(Done()), st.builds(Dead, failures), st.builds(Cancelled, failures))
progress = st.none() | st.builds(Progress, numbers, st.none() | numbers, texts)
results = st.builds(
    lambda outcome, **fields: AttemptResult(outcome, **fields),
    outcomes,
    result=st.none() | st.just(Result(b"1")) | st.builds(Result, st.none(), texts),
    progress=progress,
    log=texts,
    bill=st.builds(Bill, st.none() | st.floats(0, 1e6), st.none() | numbers),
)


@given(
    st.builds(
        Report,
        st.sampled_from(["asks", "running", "ended", "returned"]),
        texts,
        numbers,
        numbers,
        texts,
        texts,
        progress,
        st.none() | results,
        st.booleans(),
        texts,
        texts,
        st.none() | texts.map(str.encode),
    )
)
def test_a_report_arrives_as_it_was_sent(report: Report) -> None:
    found = remote.load_report(remote.dump_report(report))
    if report.result is not None:
        report = report._replace(result=report.result._replace(attempt=report.attempt))
    assert found == report


def test_a_delay_travels_as_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    result = AttemptResult(RetryAt(clock.now() + 50, Failure("x")), 1)
    document = remote.dump_report(Report("ended", "id", 1, 1, result=result))
    now = clock.now() - 30  # of another machine
    monkeypatch.setattr(clock, "now", lambda: now)
    found = remote.load_report(document).result
    assert found is not None
    assert isinstance(found.outcome, RetryAt)
    assert found.outcome.time == pytest.approx(now + 50, abs=1)


def test_what_only_the_origin_needs_does_not_travel() -> None:
    job = JobSpec("0" * 32, "t", engine="celery", enqueued_at=1.0, queue="mail", priority=3, tags=("a",))
    found = remote.load_message(remote.dump_message(Message(job, b"[[],{}]", 2, 1, "origin")))
    assert found == Message(dataclasses.replace(job, queue=None, priority=None), b"[[],{}]", 2, 1, "origin")


def test_the_files_are_private(site: CelerySite, spool_dir: str) -> None:
    work()
    site.publish()
    site.hear()
    (path,) = sent.paths(spool_dir)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
