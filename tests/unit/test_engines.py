"""The engines' conformance suite: what every engine promises, whatever carries the job."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import celery_site
import pytest
from descriptors import descriptors
from flask import Flask, current_app, g, has_request_context, request, session
from life_faults import no_store_after
from uwsgi_server import wait_until

from spoolkit import (
    SPOOL_RETRY,
    Abort,
    ArgumentError,
    Job,
    JobCancelled,
    JobFailedError,
    Retry,
    ScheduleError,
    SpoolKit,
    State,
    application,
    current_job,
    registry,
)
from spoolkit.admin import actions, lookup
from spoolkit.errors import UnknownJobError
from spoolkit.job import FINISHED, AnyJob, TaskOptions, new_id
from spoolkit.spooldir import checkpoints, dead, running, spoolfile
from spoolkit.spooldir.running import AttemptFile
from spoolkit.spooling import handler
from spoolkit.spooling.engine import SpoolEngine
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.task import Engine
from spoolkit.testing.inline import InlineEngine
from spoolkit.threads.engine import ThreadEngine
from spoolkit.uwsgi import bridge

seen: list[Any] = []
leaking: ContextVar[str] = ContextVar("leaking", default="nothing")


class Pointless(Exception):
    pass


def task(word: str, *, fail: bool = False) -> None:
    seen.append((word, current_app.name, has_request_context(), current_job().id, threading.get_ident()))
    g.word = word
    if fail:
        raise ValueError(word)


def attempts(how: str, *, good: int) -> object:
    """End in the way ``how`` until the ``good``-th attempt."""
    job = current_job()
    seen.append((job.attempt, job.max_attempts, leaking.get(), g.get("word")))
    leaking.set(f"of attempt {job.attempt}")
    g.word = f"of attempt {job.attempt}"
    if job.attempt >= good:
        return {"attempt": job.attempt}
    if how == "returns":
        return SPOOL_RETRY
    raise {"raises": ValueError("trouble"), "asks": Retry(0), "gives up": Abort("no"), "discards": Pointless("so")}[how]


DECLARED = registry.declare(task, TaskOptions())
ATTEMPTS = registry.declare(attempts, TaskOptions(retries=2, backoff=0, discard_on=(Pointless,)))


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    app = Flask("the_application")
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_RETRY_DELAY=1000, SECRET_KEY="x")
    SpoolKit(app)
    return app


class BulkEngine(SpoolEngine):
    """Accepts each job as one of many, as ``map()`` does: the first of two, the other of which is cancelled."""

    def submit(self, job: AnyJob, declared: registry.Declared) -> AnyJob:
        calls = [(job.args, job.kwargs)] * 2
        accepted, other = self.submit_many(job, calls, declared, step=0.0)
        actions.cancel(other.id)
        object.__setattr__(job, "id", accepted.id)  # which the tests do not know in advance
        return job


class CeleryEngine(SpoolEngine):
    """What ``SPOOLKIT_ENGINE = "celery"`` makes of a call, with a broker in the memory of this process."""

    name = "celery"


@pytest.fixture(params=[InlineEngine, ThreadEngine, SpoolEngine, BulkEngine, CeleryEngine])
def engine(request: pytest.FixtureRequest, app: Flask, tmp_path: Path) -> Iterator[Engine]:
    seen.clear()
    engine: Engine = request.param()
    if isinstance(engine, CeleryEngine):
        app.config.update(SPOOLKIT_ENGINE="celery", CELERY=celery_site.settings())
    with app.app_context():
        yield engine


@pytest.fixture
def work(engine: Engine, tmp_path: Path) -> Callable[[], None]:
    """Let what was submitted run, here where the engine needs it."""
    if isinstance(engine, CeleryEngine):
        return celery_site.CelerySite(application.current(), str(tmp_path / "spool")).run_due
    return Spooler(str(tmp_path / "spool")).run_due if isinstance(engine, SpoolEngine) else lambda: None


@pytest.fixture
def end(work: Callable[[], None]) -> Callable[[Job], Job]:
    """Let the job run to its end."""

    def is_over(job: Job) -> bool:
        work()
        try:
            return job.state in FINISHED
        except UnknownJobError:
            return False

    def end(job: Job) -> Job:
        wait_until(lambda: is_over(job))
        return job

    return end


def a_job(engine: Engine, *args: object, declared: registry.Declared = DECLARED, **given: Any) -> Job:
    return Job(id=new_id(), task=declared.name, args=args, engine=engine.name, enqueued_at=1.0, **given)


def test_a_job_runs_once_in_the_application_with_itself_at_hand(
    engine: Engine, work: Callable[[], None], app: Flask
) -> None:
    job = a_job(engine, "hello")
    with app.test_request_context("/"):
        engine.submit(job, DECLARED)
    work()
    wait_until(lambda: seen)
    work()
    ((word, name, in_request, id, _),) = seen
    assert (word, name, in_request, id) == ("hello", "the_application", False, job.id)
    assert "word" not in g, "the job had the caller's own context"


def test_a_job_that_fails_does_not_affect_the_next_job(
    engine: Engine, work: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    failing = a_job(engine, "failing", kwargs={"fail": True})
    engine.submit(failing, DECLARED)
    engine.submit(a_job(engine, "next"), DECLARED)
    work()
    wait_until(lambda: {entry[0] for entry in seen} == {"failing", "next"})
    wait_until(lambda: "ValueError: failing" in caplog.text)
    assert failing.id in caplog.text


def test_a_scheduled_job_waits_or_is_refused(engine: Engine, work: Callable[[], None]) -> None:
    later = a_job(engine, "later", run_at=4e9)
    if not isinstance(engine, SpoolEngine):
        with pytest.raises(ScheduleError):
            engine.submit(later, DECLARED)
    else:
        engine.submit(later, DECLARED)
    engine.submit(a_job(engine, "now"), DECLARED)
    work()
    wait_until(lambda: seen)
    assert [entry[0] for entry in seen] == ["now"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_job_that_has_expired_ends_as_cancelled_without_an_attempt(
    engine: Engine, work: Callable[[], None], end: Callable[[Job], Job], broken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    expired, lasting = (a_job(engine, word, expires_at=time) for word, time in (("late", 2.0), ("in time", 4e9)))
    # Which cancels a job, in the store; or counts attempts there, and waits for it.
    broken &= not isinstance(engine, (BulkEngine, CeleryEngine))
    with no_store_after(0) if broken else contextlib.nullcontext():
        for job in (expired, lasting):
            engine.submit(job, DECLARED)
            work()
        wait_until(lambda: seen and "expired" in caplog.text)
    assert [entry[0] for entry in seen] == ["in time"]
    assert f"job {expired.id} of {DECLARED.name} is cancelled: it expired" in caplog.text
    if not broken:
        status = end(expired).status
        assert (status.state, status.ending, status.attempt) == (State.CANCELLED, "expired", 0)
        assert (status.expires_at, lasting.status.expires_at) == (2.0, 4e9)
        assert ([event.kind for event in lookup.details(expired.id).events], expired.attempts) == (["expired"], [])
        assert expired.wait(0)
        with pytest.raises(JobCancelled, match="it expired"):
            expired.result  # noqa: B018
    assert not isinstance(engine, SpoolEngine) or spoolfile.pending(locations.spool_dir()) == []


def test_submit_returns_the_job_as_it_was_accepted(engine: Engine, work: Callable[[], None]) -> None:
    job = a_job(engine, "hello")
    assert engine.submit(job, DECLARED) == job


def test_a_job_is_recorded(engine: Engine, end: Callable[[Job], Job]) -> None:
    job = a_job(engine, "hello")
    end(engine.submit(job, DECLARED))
    status = job.status
    assert (status.state, status.engine, status.task, status.attempt) == (State.DONE, engine.name, DECLARED.name, 1)
    assert status.enqueued_at == 1.0
    assert status.finished_at is not None
    assert [attempt.outcome for attempt in job.attempts] == ["done"]
    assert Job.get(job.id).engine == engine.name


@pytest.mark.parametrize("how", ["returns", "raises", "asks"])
def test_an_attempt_that_does_not_succeed_runs_again_from_the_start(
    engine: Engine, end: Callable[[Job], Job], how: str
) -> None:
    job = a_job(engine, how, kwargs={"good": 3}, declared=ATTEMPTS)
    engine.submit(job, ATTEMPTS)
    end(job)
    assert job.result == {"attempt": 3}
    assert seen == [(number, 3, "nothing", None) for number in (1, 2, 3)]
    outcome = "failed" if how == "raises" else "retry"
    assert [attempt.outcome for attempt in job.attempts] == [outcome, outcome, "done"]


def test_a_job_without_attempts_left_is_dead_with_its_traceback(engine: Engine, end: Callable[[Job], Job]) -> None:
    job = a_job(engine, "raises", kwargs={"good": 9}, declared=ATTEMPTS)
    engine.submit(job, ATTEMPTS)
    end(job)
    assert (job.state, job.attempt, len(seen)) == (State.DEAD, 3, 3)
    with pytest.raises(JobFailedError, match="ValueError: trouble") as failed:
        _ = job.result
    assert "in attempts" in "".join(failed.value.__notes__)


@pytest.mark.parametrize(("how", "state"), [("gives up", State.DEAD), ("discards", State.CANCELLED)])
def test_a_job_that_cannot_succeed_does_not_run_again(
    engine: Engine, end: Callable[[Job], Job], how: str, state: State
) -> None:
    job = a_job(engine, how, kwargs={"good": 9}, declared=ATTEMPTS)
    engine.submit(job, ATTEMPTS)
    end(job)
    assert (job.state, len(seen)) == (state, 1)


def test_finished_jobs_leave_no_file_behind(engine: Engine, end: Callable[[Job], Job], tmp_path: Path) -> None:
    for how, good in (("raises", 3), ("raises", 9), ("returns", 1)):
        job = a_job(engine, how, kwargs={"good": good}, declared=ATTEMPTS)
        engine.submit(job, ATTEMPTS)
        end(job)
    assert not list((tmp_path / "spool").glob("uwsgi_spoolfile_on_*"))
    wait_until(lambda: not running.job_ids(str(tmp_path / "spool")))


@pytest.mark.parametrize(
    "given", [lambda: request, lambda: session, lambda: g, lambda: current_app, lambda: request._get_current_object()]
)
@pytest.mark.parametrize("by", ["position", "name"])
def test_an_argument_that_belongs_to_the_request_is_refused(
    engine: Engine, work: Callable[[], None], app: Flask, given: Callable[[], object], by: str
) -> None:
    with app.test_request_context("/"):
        job = a_job(engine, given()) if by == "position" else a_job(engine, kwargs={"word": given()})
        with pytest.raises(ArgumentError) as refused:
            engine.submit(job, DECLARED)
    assert refused.value.argument == "word"
    work()
    assert seen == []
    with pytest.raises(UnknownJobError):
        _ = job.state


def test_a_thread_job_does_not_run_in_the_callers_thread(app: Flask) -> None:
    seen.clear()
    ThreadEngine().submit(a_job(ThreadEngine(), "x"), DECLARED)
    wait_until(lambda: seen)
    assert seen[0][-1] != threading.get_ident()


def test_a_job_waits_if_the_directory_of_the_application_is_missing(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen.clear()
    monkeypatch.setattr(handler.this_process, "working_directory", str(tmp_path / "gone"))
    SpoolEngine().submit(a_job(SpoolEngine(), "x"), DECLARED)
    before = time.time()
    Spooler(str(tmp_path / "spool")).run_due()
    (path,) = (tmp_path / "spool" / "later").glob("uwsgi_spoolfile_on_*.1")
    assert path.stat().st_mtime >= before + application.settings().retry_delay
    assert seen == []


def test_the_extension_warns_of_a_spool_directory_that_uwsgi_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("elsewhere", root_path=str(tmp_path))
    monkeypatch.setattr(bridge, "directories", lambda: [str(tmp_path / "served")])
    SpoolKit(app)
    assert "jobs that processes outside uWSGI enqueue would not run" in caplog.text


def test_a_job_runs_in_the_applications_directory(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(handler.this_process, "working_directory", str(elsewhere))
    monkeypatch.chdir("/")
    SpoolEngine().submit(a_job(SpoolEngine(), "x"), DECLARED)
    Spooler(str(tmp_path / "spool")).run_due()
    assert os.getcwd() == str(elsewhere)


def test_a_dead_job_whose_file_cannot_be_moved_leaves_no_descriptor_open(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    seen.clear()
    monkeypatch.setattr(dead, "quarantine", refuse)
    spooler = Spooler(str(tmp_path / "spool"))
    counts = []
    for _ in range(4):
        SpoolEngine().submit(a_job(SpoolEngine(), "gives up", kwargs={"good": 9}, declared=ATTEMPTS), ATTEMPTS)
        spooler.run_due()
        counts.append(len(descriptors()))
    assert len(seen) >= 4
    assert counts == counts[:1] * 4


def out_of_memory(*args: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("step", ["log", "close"])
def test_a_job_that_is_done_stays_done_if_the_file_of_its_attempt_cannot_be_read_or_closed(
    engine: Engine, end: Callable[[Job], Job], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(AttemptFile, step, out_of_memory)
    job = end(engine.submit(a_job(engine, "returns", kwargs={"good": 1}, declared=ATTEMPTS), ATTEMPTS))
    assert (job.state, job.result, len(seen)) == (State.DONE, {"attempt": 1}, 1)


@pytest.mark.parametrize("module", [running, checkpoints], ids=["running", "checkpoints"])
def test_a_job_that_is_done_runs_once_if_it_cannot_be_recorded_and_its_files_cannot_be_deleted(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    seen.clear()
    monkeypatch.setattr(module, "delete", out_of_memory)
    SpoolEngine().submit(a_job(SpoolEngine(), "returns", kwargs={"good": 1}, declared=ATTEMPTS), ATTEMPTS)
    spooler = Spooler(str(tmp_path / "spool"))
    with no_store_after(0):
        spooler.run_due()
        spooler.run_due()
    assert len(seen) == 1
    assert spoolfile.pending(str(tmp_path / "spool")) == []
