"""A job that has expired is not started any more: it ends as cancelled when its next attempt is due."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask
from life_process import in_child
from put_clock import NOW

from spoolkit import Job, SpoolKit, State, current_job, spool, thread
from spoolkit.admin import actions, lookup
from spoolkit.api import jobs_blueprint
from spoolkit.cli import commands
from spoolkit.encoding import packet
from spoolkit.spooldir import dead, spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.testing import run_jobs, waiting_jobs

ran: list[object] = []
during: list[Callable[[], None]] = []
"""What the next attempt does first."""


@spool(retries=3, backoff=10.0)
def task(how: str = "") -> None:
    ran.append((how, current_job().expires_at))
    if during:
        during.pop()()
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how:
        raise ValueError(how)


@thread(overflow="spool")
def in_thread() -> None:
    ran.append("thread")


@pytest.fixture
def app(tmp_path: Path, time_passes: Callable[[float], None]) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    app.register_blueprint(jobs_blueprint(listing=True))
    (tmp_path / "spool").mkdir(mode=0o700)
    ran.clear()
    with app.app_context():
        yield app


@pytest.fixture
def work(app: Flask) -> Callable[[], None]:
    return Spooler(str(app.config["SPOOLKIT_SPOOL"])).run_due


def outcomes(job: Job) -> tuple[State, list[str], list[str]]:
    found = lookup.details(job.id)
    return found.status.state, [one.outcome for one in found.attempts], [event.kind for event in found.events]


def test_expires_counts_from_the_call_and_is_named_in_the_packet(app: Flask) -> None:
    call = task.using(expires=60)
    assert call().expires_at == NOW + 60
    (path,) = spoolfile.pending(locations.spool_dir())
    content = packet.load(Path(path).read_bytes())
    assert content.fields[packet.MUST] == b"expires"
    assert packet.unpack(content).expires_at == NOW + 60
    assert task.using(expires=datetime.fromtimestamp(NOW + 5, UTC))().expires_at == NOW + 5
    assert task().expires_at is None
    assert in_thread.using(expires=60)().expires_at == NOW + 60


def test_a_job_starts_until_it_expires_and_not_from_then_on(
    work: Callable[[], None], time_passes: Callable[[float], None]
) -> None:
    early, late = (task.using(expires=60, delay=delay)() for delay in (59, 60))
    time_passes(59.5)
    work()
    time_passes(0.5)
    work()
    assert ran == [("", NOW + 60)]
    assert outcomes(early) == (State.DONE, ["done"], [])
    assert outcomes(late) == (State.CANCELLED, [], ["expired"])


def test_a_job_that_expires_before_it_is_due_is_accepted_and_ends_when_it_is_due(
    work: Callable[[], None], time_passes: Callable[[float], None]
) -> None:
    job = task.using(expires=10, delay=100)()
    time_passes(50)
    work()
    assert job.state is State.QUEUED
    time_passes(51)
    work()
    assert job.state is State.CANCELLED
    assert ran == []


def test_a_retry_does_not_start_once_the_job_has_expired(
    work: Callable[[], None], time_passes: Callable[[float], None]
) -> None:
    job = task.using(expires=15)("fail")
    for _ in range(3):
        work()
        time_passes(11)
    assert outcomes(job) == (State.CANCELLED, ["failed", "failed"], ["expired"])
    status = job.status
    assert (status.ending, status.attempt, status.error_type) == ("expired", 2, None)


def test_the_end_of_an_attempt_whose_process_died_is_recorded_before_the_job_expires(
    work: Callable[[], None], time_passes: Callable[[float], None]
) -> None:
    job = task.using(expires=15)("die")
    in_child(work)
    time_passes(20)
    work()
    assert outcomes(job) == (State.RETRYING, ["crashed"], [])
    time_passes(20)
    work()
    assert outcomes(job) == (State.CANCELLED, ["crashed"], ["expired"])


def test_a_running_job_is_not_touched_when_it_expires(
    work: Callable[[], None], time_passes: Callable[[float], None]
) -> None:
    during.append(lambda: time_passes(100))
    job = task.using(expires=5)()
    work()
    assert outcomes(job) == (State.DONE, ["done"], [])


def test_a_dead_job_that_is_retried_after_its_expiry_is_cancelled(
    work: Callable[[], None], time_passes: Callable[[float], None]
) -> None:
    job = task.using(expires=5)()
    (path,) = spoolfile.pending(locations.spool_dir())
    dead.quarantine(path, locations.spool_dir(), reason="by hand")
    time_passes(10)
    actions.retry(job.id)
    work()
    assert outcomes(job) == (State.CANCELLED, [], ["expired"])
    assert ran == []


def test_all_jobs_of_a_map_expire(work: Callable[[], None], time_passes: Callable[[float], None]) -> None:
    jobs = task.map([(), ()], expires=60)
    assert [job.expires_at for job in jobs] == [NOW + 60] * 2
    assert [Job.get(job.id).expires_at for job in jobs] == [NOW + 60] * 2
    time_passes(61)
    work()
    assert [job.state for job in jobs] == [State.CANCELLED] * 2


def test_people_see_when_a_job_expires(app: Flask, time_passes: Callable[[float], None]) -> None:
    job = task.using(expires=60)()
    assert app.test_client().get(f"/jobs/{job.id}").get_json()["expires_at"] == NOW + 60
    assert app.test_client().get("/jobs").get_json()["jobs"][0]["expires_at"] == NOW + 60
    assert "expires in 60 s" in app.test_cli_runner().invoke(commands, ["ls"]).output
    assert "expires" in app.test_cli_runner().invoke(commands, ["show", job.id]).output
    time_passes(70)
    assert "expired 10 s ago" in app.test_cli_runner().invoke(commands, ["ls"]).output
    Spooler(locations.spool_dir()).run_due()
    listed = app.test_cli_runner().invoke(commands, ["ls"]).output
    assert "cancelled" in listed
    assert "it expired 10.0 s before this attempt could start" in listed
    assert "expired" in app.test_cli_runner().invoke(commands, ["show", job.id]).output


def test_a_test_sees_that_a_job_expires(app: Flask, time_passes: Callable[[float], None]) -> None:
    job = task.using(expires=60)()
    assert [one.expires_at for one in waiting_jobs()] == [NOW + 60]
    time_passes(61)
    assert run_jobs() == [job]
    assert job.state is State.CANCELLED
