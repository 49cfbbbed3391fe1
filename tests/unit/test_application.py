"""Several applications in one process: in which one a job runs, and that none is kept alive."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from pathlib import Path
from weakref import ref

import pytest
from flask import Flask, current_app

from spoolkit import SpoolKit, application, spool, thread
from spoolkit.encoding import packet
from spoolkit.job import JobSpec
from spoolkit.spooling.standalone import Spooler

ran_in: list[str] = []


@spool(retries=0)
def where_spooled() -> None:
    ran_in.append(current_app.name)


@thread
def where_threaded() -> str:
    return current_app.config["NUMBER"]  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No application of another test is known, and none of these afterwards."""
    gc.collect()
    monkeypatch.setattr(application, "this_process", application.Applications())
    ran_in.clear()


def made(name: str, folder: Path, number: str = "") -> Flask:
    app = Flask(name, root_path=str(folder))
    app.config.update(SPOOLKIT_SPOOL=folder / "spool", NUMBER=number)
    SpoolKit(app)
    return app


@pytest.mark.parametrize(("caller", "expected"), [("one", "one"), ("two", "two"), (None, "two")])
def test_a_job_runs_in_the_application_of_its_call(caller: str | None, expected: str, tmp_path: Path) -> None:
    apps = {name: made(name, tmp_path) for name in ("one", "two")}
    with apps[caller].app_context() if caller else nullcontext():
        where_spooled()
    Spooler(str(tmp_path / "spool")).run_due()
    assert ran_in == [expected]


def test_a_job_of_an_unknown_application_runs_in_the_latest_one(tmp_path: Path) -> None:
    first = made("one", tmp_path)
    made_last = made("two", tmp_path)
    with first.app_context():
        where_spooled()
    del first
    gc.collect()
    Spooler(str(tmp_path / "spool")).run_due()
    assert ran_in == [made_last.name]


def test_a_thread_job_runs_in_the_application_object_of_its_call(tmp_path: Path) -> None:
    apps = [made("same_name", tmp_path, str(number)) for number in range(3)]
    jobs = []
    for app in apps:
        with app.app_context():
            jobs.append(where_threaded())
    with apps[0].app_context():
        for job in jobs:
            job.wait(timeout=60)
        assert [job.result for job in jobs] == ["0", "1", "2"]


def test_a_job_does_not_name_the_only_application(tmp_path: Path) -> None:
    app = made("one", tmp_path)
    assert application.current_name() is None
    other = made("two", tmp_path)
    assert application.current_name() == "two"
    with app.app_context():
        assert application.current_name() == "one"
    assert other.name == "two"


def test_a_packet_carries_the_applications_name_and_an_older_one_has_none() -> None:
    job = JobSpec("0" * 32, "tasks.greet", enqueued_at=1.0, app="shop")
    assert packet.unpack(packet.pack(job, max_body=1000)) == job
    fields, body = packet.pack(job, max_body=1000)
    assert packet.unpack(packet.Packet({k: v for k, v in fields.items() if k != b"app"}, body)).app is None


def test_no_application_is_kept_alive(tmp_path: Path) -> None:
    apps = [ref(made("shop", tmp_path)) for _ in range(200)]
    apps.append(ref(made("another", tmp_path)))
    gc.collect()
    assert [app() for app in apps] == [None] * 201
    assert application.current() is None
