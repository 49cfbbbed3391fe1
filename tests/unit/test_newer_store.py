"""Beside a store that a newer version has written no job starts, and none is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from uwsgi_server import wait_until

from spoolkit import NewerStoreError, SpoolKit, State, StoreUnavailableError, spool, thread
from spoolkit.cli import commands
from spoolkit.doctor import store as doctor_store
from spoolkit.doctor.findings import Site
from spoolkit.spooldir import dead, spoolfile
from spoolkit.spooling import handler, store_version
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import database, locations
from spoolkit.system import log
from spoolkit.system.process import PerProcess

ran: list[str] = []


@spool(retries=0)
def task(word: str) -> None:
    ran.append(word)


@thread
def in_thread() -> None:
    ran.append("thread")


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    (tmp_path / "spool").mkdir(mode=0o700)
    monkeypatch.setattr(store_version, "this_process", store_version._ThisProcess())
    monkeypatch.setattr(log, "_complaints", PerProcess(dict))
    ran.clear()
    with app.app_context():
        yield app
        locations.store().close()


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [0.0]
    monkeypatch.setattr("spoolkit.spooling.store_version.time.monotonic", lambda: now[0])

    def put_forward(seconds: float) -> None:
        now[0] += seconds

    return put_forward


def set_version(number: int) -> None:
    """Make the store one of this version, as another process does."""
    locations.store().close()
    path = locations.store().path
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {number}")
    os.chmod(path, 0o600)


@pytest.fixture
def spooler(app: Flask) -> Spooler:
    return Spooler(str(app.config["SPOOLKIT_SPOOL"]))


def test_no_job_starts_beside_a_newer_store_until_it_is_one_of_this_version(
    spooler: Spooler, time_passes: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    task("first")
    spooler.run_due()
    set_version(99)
    job = task("second")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            spooler.run_due()
            time_passes(store_version.PAUSE + 0.1)
        (record,) = [one for one in caplog.records if "starts no job" in one.getMessage()]
        assert "schema has version 99" in record.getMessage()
        assert "update spoolkit" in record.getMessage()
        (path,) = spoolfile.pending(spooler.spool_dir)
        assert spoolfile.attempts_in_filename(path) == 0
        assert dead.paths(spooler.spool_dir) == []
        set_version(len(database.MIGRATIONS))
        spooler.run_due()
        assert "starts jobs again" in caplog.text
    assert ran == ["first", "second"]
    assert (job.state, job.attempt) == (State.DONE, 1)


def test_a_spooler_that_starts_says_so_before_any_job_comes(
    spooler: Spooler, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_version(99)
    monkeypatch.setattr(handler, "this_process", handler._ThisProcess())
    handler.start(spooler.spool_dir)
    handler.leave()
    assert store_version.is_newer()
    assert caplog.text.count("starts no job") == 1


def test_a_store_that_is_broken_in_another_way_does_not_keep_jobs_from_running(spooler: Spooler) -> None:
    Path(locations.store().path).write_bytes(b"no database at all " * 500)
    locations.store().check_version()
    task("anyway")
    spooler.run_due()
    assert ran == ["anyway"]


def test_jobs_are_accepted_and_thread_jobs_run_beside_a_newer_store(app: Flask, spooler: Spooler) -> None:
    set_version(99)
    task("later")
    in_thread()
    wait_until(lambda: ran == ["thread"])
    assert len(spoolfile.pending(spooler.spool_dir)) == 1


def test_every_use_of_a_newer_store_raises_the_error_that_says_so(app: Flask) -> None:
    assert issubclass(NewerStoreError, StoreUnavailableError)
    locations.store().check_version()
    assert not os.path.exists(locations.store().path), "a question makes no store"
    set_version(99)
    for use in (locations.store().check_version, lambda: locations.store().status("1" * 32)):
        with pytest.raises(NewerStoreError, match="update spoolkit"):
            use()


def test_flask_spool_run_does_not_start_beside_a_newer_store(app: Flask) -> None:
    set_version(99)
    result = app.test_cli_runner().invoke(commands, ["run"])
    assert result.exit_code == 1
    assert "update spoolkit" in result.output


def test_the_doctor_says_what_to_do_about_a_newer_store(app: Flask) -> None:
    set_version(99)
    site = Site(str(app.config["SPOOLKIT_SPOOL"]), locations.store().path, 60.0, 0.0, [])
    (finding,) = [finding for check in doctor_store.CHECKS for finding in check(site)]
    assert finding.severity == "error"
    assert "schema 99" in finding.problem
    assert finding.remedy.startswith("pip install --upgrade spoolkit")
