"""The engines' conformance suite: what every engine promises, whatever carries the job."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g, has_request_context
from uwsgi_server import wait_until

from spoolkit import ScheduleError, SpoolKit, bridge, current_job, registry
from spoolkit.engine import Engine
from spoolkit.engines import spool
from spoolkit.engines.spool import SpoolEngine
from spoolkit.engines.spooler import Spooler
from spoolkit.engines.thread import ThreadEngine
from spoolkit.job import Job, TaskOptions, new_id

seen: list[Any] = []


def task(word: str, *, fail: bool = False) -> None:
    seen.append((word, current_app.name, has_request_context(), current_job().id, threading.get_ident()))
    g.word = word
    if fail:
        raise ValueError(word)


DECLARED = registry.declare(task, TaskOptions())


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_RETRY_DELAY=1000)
    SpoolKit(app)
    return app


@pytest.fixture(params=[SpoolEngine, ThreadEngine])
def engine(request: pytest.FixtureRequest, app: Flask, tmp_path: Path) -> Iterator[Engine]:
    seen.clear()
    engine: Engine = request.param()
    with app.app_context():
        yield engine


@pytest.fixture
def work(engine: Engine, tmp_path: Path) -> Callable[[], None]:
    """Let what was submitted run, here where the engine needs it."""
    if isinstance(engine, ThreadEngine):
        return lambda: None
    return Spooler(str(tmp_path / "spool")).run_due


def a_job(engine: Engine, *args: object, **given: Any) -> Job:
    return Job(id=new_id(), task=DECLARED.name, args=args, engine=engine.name, enqueued_at=1.0, **given)


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


def test_a_job_that_fails_hurts_nobody(
    engine: Engine, work: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    failing = a_job(engine, "failing", kwargs={"fail": True})
    engine.submit(failing, DECLARED)
    engine.submit(a_job(engine, "next"), DECLARED)
    work()
    wait_until(lambda: {entry[0] for entry in seen} == {"failing", "next"})
    wait_until(lambda: "ValueError: failing" in caplog.text)
    assert failing.id in caplog.text


def test_a_job_is_not_early(engine: Engine, work: Callable[[], None]) -> None:
    later = a_job(engine, "later", run_at=4e9)
    if isinstance(engine, ThreadEngine):
        with pytest.raises(ScheduleError):
            engine.submit(later, DECLARED)
    else:
        engine.submit(later, DECLARED)
    engine.submit(a_job(engine, "now"), DECLARED)
    work()
    wait_until(lambda: seen)
    assert [entry[0] for entry in seen] == ["now"]


def test_a_thread_is_not_the_callers(app: Flask) -> None:
    seen.clear()
    ThreadEngine().submit(a_job(ThreadEngine(), "x"), DECLARED)
    wait_until(lambda: seen)
    assert seen[0][-1] != threading.get_ident()


def test_where_the_applications_directory_is_gone_the_job_waits(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen.clear()
    monkeypatch.setattr(spool, "_working_directory", str(tmp_path / "gone"))
    SpoolEngine().submit(a_job(SpoolEngine(), "x"), DECLARED)
    Spooler(str(tmp_path / "spool")).run_due()
    (path,) = (tmp_path / "spool").glob("uwsgi_spoolfile_on_*.1")
    assert path.stat().st_mtime > time.time()
    assert seen == []


def test_a_directory_that_uwsgi_does_not_serve_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("elsewhere", root_path=str(tmp_path))
    monkeypatch.setattr(bridge, "directories", lambda: [str(tmp_path / "served")])
    SpoolKit(app)
    assert "would lie there unseen" in caplog.text


def test_a_job_runs_in_the_applications_directory(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(spool, "_working_directory", str(elsewhere))
    monkeypatch.chdir("/")
    SpoolEngine().submit(a_job(SpoolEngine(), "x"), DECLARED)
    Spooler(str(tmp_path / "spool")).run_due()
    assert os.getcwd() == str(elsewhere)
